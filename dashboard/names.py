"""Names of layers: shortened for axes, and how they belong together."""

from collections.abc import Sequence


def shorten(name: str, width: int = 30) -> str:
    """Return a name of at most ``width`` letters; what is left out is in the middle, because ends tell layers apart."""
    if len(name) <= width:
        return name
    head = (width - 1) // 3
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"


def short_names(names: Sequence[str], width: int = 24) -> list[str]:
    """Return names of at most ``width`` letters. Where one is longer, the path that all begin with goes first."""
    if len(names) > 1 and max(map(len, names)) > width:
        parts = [name.split(".") for name in names]
        shared = 0
        while all(len(path) > shared + 1 and path[shared] == parts[0][shared] for path in parts):
            shared += 1
        names = [".".join(path[shared:]) for path in parts]
    return [shorten(name, width) for name in names]


def related(chosen: str, modules: Sequence[str]) -> list[str]:
    """Return the layer itself if it is among ``modules``, else its parts, else the closest layer that it is a part of.

    Attention is measured as a whole (``blocks.0.attention``), its projections one by one (``blocks.0.attention.q``): who looks at
    one wants to see what there is of the other.
    """
    if chosen in modules or not chosen:
        return [chosen] if chosen in modules else []
    parts = [module for module in modules if module.startswith(f"{chosen}.")]
    if parts:
        return parts
    wholes = [module for module in modules if module and chosen.startswith(f"{module}.")]
    return [max(wholes, key=len)] if wholes else []
