"""What each rank of a test's job runs: ``python distributed_job.py FOLDER SCENARIO...`` with RANK and WORLD_SIZE set."""

import json
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import foreshock
import torch
import torch.distributed as dist
import torch.nn.functional as F
from foreshock import distributed
from foreshock.probes.base import Block, Probe
from foreshock.probes.distributed import company, exchange, leader, sharded
from foreshock.probes.model import WatchedModel
from foreshock.probes.spectral import SpectralProbe
from foreshock.probes.step import collector
from foreshock.probes.step.governor import Cadence, Governor
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

TOKENS = 8
"""Rows of the whole batch; each rank trains on its share of them."""
PROBES = ["spectral", "activations", "gradients", "adam", "updates", "weights"]
FOLDER = Path()


class Network(nn.Module):
    """An embedding-free transformer block's worth of layers, a fused projection among them. Rows do not divide evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.qkv, self.down = nn.Linear(10, 15), nn.Linear(15, 45), nn.Linear(45, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.qkv(torch.tanh(self.up(x)))))


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield torch.randn(TOKENS, 10, generator=generator), torch.randint(3, (TOKENS,), generator=generator)


def share(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    if not dist.is_initialized():
        return batch
    each = TOKENS // dist.get_world_size()
    x, y = batch
    first = each * dist.get_rank()
    return x[first : first + each], y[first : first + each]


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return Network()


def train(
    model: nn.Module,
    steps: int,
    url: str | None,
    *,
    clip: float | None = None,
    optimizer: Callable[[Any], Any] = lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    before: Callable[[int], None] = lambda step: None,
    after: Callable[[int, Any], None] = lambda step, monitor: None,
    **options: Any,
) -> Any:
    """Train on this rank's share of each batch; return the closed monitor."""
    stepping = optimizer(model.parameters())
    monitor = foreshock.watch(model, stepping, store=url, **{"probes": PROBES, **options}) if url else None
    for step, batch in enumerate(batches(steps)):
        before(step)
        x, y = share(batch)
        loss = F.cross_entropy(model(x), y)
        stepping.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        stepping.step()
        if monitor is not None:
            monitor.step(loss)
            after(step, monitor)
    if monitor is not None:
        monitor.close()
    return monitor


def weights(model: nn.Module) -> Tensor:
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return torch.cat([p.detach().flatten() for p in whole])


# -- scenarios: each is run by every rank and returns what the test looks at ------------------------------------------


def url(name: str) -> str:
    return f"sqlite:///{FOLDER / name}.db"


def shard(model: nn.Module) -> nn.Module:
    for layer in (model.up, model.qkv, model.down):
        fully_shard(layer)
    fully_shard(model)
    return model


def twice(wrap: Callable[[nn.Module], nn.Module], name: str, **options: Any) -> dict[str, Any]:
    """Train with and without the monitor."""
    watched, plain = wrap(fresh()), wrap(fresh())
    monitor = train(watched, 12, url(name), every=3, **options)
    train(plain, 12, None, **{name: options[name] for name in ("clip", "optimizer") if name in options})
    return {
        "identical": torch.equal(weights(watched), weights(plain)),
        "faults": monitor.faults.total,
        "kind": type(monitor).__name__,
    }


def ddp() -> dict[str, Any]:
    return twice(DistributedDataParallel, "ddp")


def fsdp() -> dict[str, Any]:
    return twice(shard, "fsdp")


def fsdp_clipped() -> dict[str, Any]:
    return twice(shard, "fsdp_clipped", clip=0.5)


def zero() -> dict[str, Any]:
    """Each rank's optimizer steps some of the parameters; a module's weight and bias may go to two ranks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own, when it is imported
        from torch.distributed.optim import ZeroRedundancyOptimizer
    return twice(DistributedDataParallel, "zero", optimizer=lambda p: ZeroRedundancyOptimizer(p, torch.optim.AdamW, lr=0.01))


def compiled() -> dict[str, Any]:
    """DDP within torch.compile, as it is usually done."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    result = twice(lambda model: torch.compile(DistributedDataParallel(model), backend=counter), "compiled")
    return result | {"graphs": counter.frame_count}


def drift() -> dict[str, Any]:
    """The last rank's weights change a little, once."""
    model = DistributedDataParallel(fresh())

    def before(step: int) -> None:
        if step == 8 and dist.get_rank() == dist.get_world_size() - 1:
            with torch.no_grad():
                model.module.up.weight[0, 0] += 1e-5

    monitor = train(model, 16, url("drift"), every=1, before=before)
    return {"alerts": [[alert.rule, alert.message, alert.first_step] for alert in monitor.alerts]}


class FailingProbe(Probe):
    name = "failing"
    presets = frozenset()

    def attach(self, model: WatchedModel) -> None:
        pass

    def arm(self, step: int) -> None:
        pass

    def collect(self, step: int) -> Iterator[Block]:
        raise RuntimeError("planted")
        yield

    def disarm(self) -> None:
        pass


def failing_probe() -> dict[str, Any]:
    """One more probe, failing, before the others on rank 1; and spectral alignment fails there at the second sample."""
    probes: list[Any] = [*PROBES]
    if dist.get_rank() == 1:
        spectral = SpectralProbe()
        collect = spectral.collect

        def failing_once(step: int) -> Iterator[Block]:
            if step == 3:
                raise RuntimeError("planted")
            yield from collect(step)

        spectral.collect = failing_once
        probes = [FailingProbe(), spectral, "ranks"]
    monitor = train(DistributedDataParallel(fresh()), 12, url("failing_probe"), every=3, probes=probes)
    return {"faults": monitor.faults.total, "said": said("failing_probe")}


def broken() -> dict[str, Any]:
    """From step 20 on a layer gives NaN; the next sample that is planned is far away."""
    real, Governor._affordable = Governor._affordable, lambda self, allowance: Cadence(500)
    collector.HEARD_WITHIN_SECONDS = 0.3
    exchange._LONGEST_PAUSE = 0.05
    model = DistributedDataParallel(fresh())

    def before(step: int) -> None:
        if step == 20:
            model.module.qkv.register_forward_hook(lambda module, given, out: out * torch.nan)
        if step > 10:
            threading.Event().wait(0.01)

    seen = []

    def after(step: int, monitor: Any) -> None:
        if monitor.collector.sampling:
            seen.append(step + 1)

    train(model, 90, url("broken"), before=before, after=after, probes=["nonfinite", "gradients"])
    Governor._affordable = real
    return {"seen": seen}


def governed() -> dict[str, Any]:
    """The first rank's governor changes its mind all the time; the ranks' clocks differ."""
    rank, choices = dist.get_rank(), random.Random(dist.get_rank())

    def affordable(self: Governor, allowance: float) -> Cadence:
        return Cadence(choices.randint(10, 16), {"activations": choices.choice([1, 2])})

    seen = []

    def before(step: int) -> None:
        if step % 4 == rank % 4:
            threading.Event().wait(0.004)

    def after(step: int, monitor: Any) -> None:
        if monitor.collector.sampling:
            seen.append([step + 1, [probe.name for probe in monitor.collector._due]])

    real, Governor._affordable = Governor._affordable, affordable
    train(DistributedDataParallel(fresh()), 200, url("governed"), before=before, after=after, probes=["spectral", "activations"])
    Governor._affordable = real
    return {"seen": seen}


def first_rank_only() -> dict[str, Any]:
    leader.PATIENCE_SECONDS = 0.2
    first = dist.get_rank() == 0
    train(DistributedDataParallel(fresh()), 12, url("first_rank_only") if first else None, every=3)
    return {"said": said("first_rank_only")} if first else {}


def first_rank_not() -> dict[str, Any]:
    distributed.JOIN_SECONDS = 0.2
    first = dist.get_rank() == 0
    monitor = train(DistributedDataParallel(fresh()), 6, None if first else url("first_rank_not"), every=3)
    return {} if first else {"kind": type(monitor).__name__}


def leaving(wrap: Callable[[nn.Module], nn.Module], name: str) -> dict[str, Any]:
    """Rank 1 closes its monitor in mid-training."""
    leader.PATIENCE_SECONDS = company.MEETING_SECONDS = 0.2
    plain, model = wrap(fresh()), wrap(fresh())

    def after(step: int, monitor: Any) -> None:
        if step == 5 and dist.get_rank() == 1:
            monitor.close()

    train(model, 12, url(name), every=1, after=after)
    train(plain, 12, None)
    return {"identical": torch.equal(weights(model), weights(plain)), "said": said(name)}


def leaving_ddp() -> dict[str, Any]:
    return leaving(DistributedDataParallel, "leaving_ddp")


def leaving_fsdp() -> dict[str, Any]:
    return leaving(shard, "leaving_fsdp")


def failing_shards() -> dict[str, Any]:
    """In one sample rank 1 fails between two reductions."""
    company.MEETING_SECONDS = 5.0
    real, calls = sharded.orthonormal, []

    def orthonormal(rows: Tensor) -> Tensor:
        calls.append(1)
        if dist.get_rank() == 1 and len(calls) == 7:
            raise RuntimeError("planted")
        return real(rows)

    sharded.orthonormal = orthonormal
    monitor = train(shard(fresh()), 12, url("failing_shards"), every=2)
    sharded.orthonormal = real
    return {"faults": monitor.faults.total}


def refused() -> dict[str, Any]:
    """Ways of sharding that cannot be watched."""
    world = dist.get_world_size()
    meshes = {"columns": (init_device_mesh("cpu", (world,)), [Shard(1)])}
    if world == 4:
        meshes["hybrid"] = init_device_mesh("cpu", (2, 2)), [Replicate(), Shard(0)]
    messages = {}
    for name, (mesh, placements) in meshes.items():
        model = fresh()
        model.down.weight = nn.Parameter(distribute_tensor(model.down.weight.detach(), mesh, placements))
        try:
            foreshock.watch(model, store=url("refused"))
        except ValueError as error:
            messages[name] = str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FSDP1 on a CPU, and its end to come
        old = FullyShardedDataParallel(fresh(), device_id=torch.device("cpu"))
    try:
        foreshock.watch(nn.Sequential(old), store=url("refused"))
    except ValueError as error:
        messages["fsdp1"] = str(error)
    return messages


def dying(who: int) -> dict[str, Any]:
    """One rank is killed; the others, which train each for itself, go on."""
    leader.PATIENCE_SECONDS = 0.2
    model = fresh()

    def before(step: int) -> None:
        if step == 6 and dist.get_rank() == who:
            os._exit(0)

    monitor = train(model, 40, url("dying"), every=2, before=before)
    return {"said": said("dying"), "kind": type(monitor).__name__}


def dying_follower() -> dict[str, Any]:
    return dying(1)


def dying_leader() -> dict[str, Any]:
    return dying(0)


def said(name: str) -> list[str]:
    """Return what the first rank's run says happened."""
    if dist.get_rank() > 0:
        return []
    store = foreshock.open_store(url(name))
    found = [event.message for event in store.events(store.runs()[0].id)]
    store.close()
    return found


@contextmanager
def undone() -> Iterator[None]:
    """Undo what a scenario did to how long is waited."""
    kept = (distributed, "JOIN_SECONDS"), (leader, "PATIENCE_SECONDS"), (company, "MEETING_SECONDS"), (exchange, "_LONGEST_PAUSE")
    before = [getattr(module, name) for module, name in kept]
    yield
    for (module, name), value in zip(kept, before, strict=True):
        setattr(module, name, value)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name in sys.argv[2:]:
        with undone():
            result = globals()[name]()
        (FOLDER / f"{name} {dist.get_rank()}.json").write_text(json.dumps(result))
        if not name.startswith("dying"):
            dist.barrier()
    if not name.startswith("dying"):
        dist.destroy_process_group()


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    main()
