"""bfloat16 in Triton 3.9's interpreter, made right; for tests alone.

The interpreter keeps bfloat16 as uint16 patterns, truncates where it casts, and does arithmetic on the patterns. Here it
widens to float32, computes, and rounds to nearest even, as hardware does. ``VERSION`` is the Triton this was written for.
"""

import numpy as np

VERSION = "3.9"


def widened(handle):
    """float32 numbers of a bfloat16 handle, exact."""
    return (handle.data.astype(np.uint32) << 16).view(np.float32)


def narrowed(values):
    """bfloat16 patterns of numbers, rounded to nearest, ties to even."""
    values = np.ascontiguousarray(np.asarray(values), dtype=np.float32)
    bits = values.view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, nearest).astype(np.uint16).reshape(values.shape)


def install():
    """Patch the interpreter of this process, once."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    if getattr(builder, "_bfloat16_made_right", False):
        return
    stock = {
        name: getattr(builder, name) for name in ("cast_impl", "binary_op", "unary_op", "ternary_op", "create_fma", "create_dot")
    }
    stock_sum = interpreter.ReduceOps.sum

    def narrow(x):
        return isinstance(x, handle) and x.dtype.scalar == tl.bfloat16

    def wide(x):
        return handle(widened(x), tl.float32) if narrow(x) else x

    def cast_impl(self, source, target):
        if target.scalar == tl.bfloat16:
            return handle(source.data if narrow(source) else narrowed(source.data), tl.bfloat16)
        if narrow(source) and target.scalar == tl.float32:
            return wide(source)
        return stock["cast_impl"](self, wide(source), target)

    def binary_op(self, left, right, op):
        if not narrow(left):
            return stock["binary_op"](self, left, right, op)
        result = op(widened(left), widened(right))
        return handle(result if result.dtype == np.bool_ else narrowed(result), tl.bfloat16)

    def unary_op(self, argument, op):
        return handle(narrowed(op(widened(argument))), tl.bfloat16) if narrow(argument) else stock["unary_op"](self, argument, op)

    def ternary_op(self, a, b, c, op):
        if not narrow(c) or op is np.where:  # a select moves patterns
            return stock["ternary_op"](self, a, b, c, op)
        return handle(narrowed(op(widened(a), widened(b), widened(c))), tl.bfloat16)

    def create_fma(self, x, y, z):
        if not narrow(z):
            return stock["create_fma"](self, x, y, z)
        return handle(narrowed(stock["create_fma"](self, wide(x), wide(y), wide(z)).data), tl.bfloat16)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        return stock["create_dot"](self, wide(a), wide(b), d, input_precision, max_num_imprecise_acc)

    def summed(self, x):
        if x.dtype.scalar != tl.bfloat16:
            return stock_sum(self, x)
        return self.to_tensor(narrowed(np.sum(widened(x.handle), axis=self.axis, keepdims=self.keep_dims)), x.dtype)

    mended = (cast_impl, binary_op, unary_op, ternary_op, create_fma, create_dot)
    for function in mended:
        setattr(builder, function.__name__, function)
    builder._bfloat16_made_right = True
    interpreter.ReduceOps.sum = summed
