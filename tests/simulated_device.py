"""A GPU simulated on the CPU, for tests of what a machine without one can show.

Tensors of the device `simgpu` hold real values, which the CPU computes, and keep a GPU's rules: they do not mix with
CPU tensors (scalars and indices apart), have no `.numpy()`, and draw from generators of their own device. Each place
where the host would wait for the device is noted.

    with simulated_device.switched_on() as waits:
        model.to(simulated_device.DEVICE)
        ...
    assert len(waits) <= 3, simulated_device.explain(waits)

It is torch's Python backend for PrivateUse1; nothing is compiled, and torch.cuda is left alone. Outside of
`switched_on` torch says that the device is not available, so that other tests of the process see none.

It cannot see: kernels (attention takes torch's math path, so nothing of alignment, ties, nondeterminism, or NaN but
what `dead_rows_are_nan` asks for), memory and its end, speed, streams and races, several devices and NCCL, compiled
code, bitsandbytes, vLLM's engine, and whatever asks for `torch.cuda`. In-place changes of a shape (`squeeze_`) do
not work. Copies without `non_blocking` count as waits; those with it do not, as torch stages or pins their memory.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from unittest import mock

import torch
from torch.utils import backend_registration as backends
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

NAME, CPU = "simgpu", torch.device("cpu")
DEVICE = f"{NAME}:0"
SAME_DRAWS = True
"""Whether the device's generators draw what the CPU's draw."""
READS_VALUES = {"_local_scalar_dense", "equal", "is_nonzero"}
SIZE_FROM_VALUES = {"nonzero", "masked_select", "argwhere", "bincount", "repeat_interleave", "unique_dim"}
SIZE_FROM_VALUES |= {"unique_consecutive", "_unique2"}
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
TAKES_CPU_SCALARS = {"where", "masked_fill", "masked_fill_", "fill_", "lerp"}


class _State:
    is_on = False
    dead_rows_are_nan = False
    waits: list[str] = []  # noqa: RUF012  # replaced as a whole
    generators: dict[int, torch.Generator] = {}  # noqa: RUF012


class _Hook(backends._DummyPrivateUse1Hook):
    def is_available(self):
        return _State.is_on


class _Module(backends._DummyBackendModule):
    def is_available(self):
        return _State.is_on

    def device_count(self):
        return int(_State.is_on)

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device=0):
        return torch.get_rng_state()

    def set_rng_state(self, state, device=0):
        torch.set_rng_state(state)


# At import, because autograd counts devices once, at a process's first backward.
backends._setup_privateuseone_for_python_backend(NAME, hook=_Hook(), backend_module=_Module())


def explain(waits):
    """The waits by kind and place, most frequent first."""
    return "\n".join(f"{count:4d}  {wait}" for wait, count in Counter(waits).most_common()) or "no waits"


def generator(seed):
    """A random generator of the device, which draws as the CPU's does."""
    made = torch.Generator().manual_seed(seed)
    _State.generators[made._cdata] = made  # torch hands a generator on as another object of the same address
    return made


def wait_at(kind, operation):
    """A wait as text, with the innermost line of llmrec that led to it."""
    frame, library = sys._getframe(1), ""
    while frame is not None:
        file = frame.f_code.co_filename
        if "/llmrec/" in file and "site-packages" not in file:
            return f"{kind} ({operation}) at {file.rpartition('/llmrec/')[2]}:{frame.f_lineno}{library}"
        if not library and "site-packages" in file and "/torch/" not in file:
            library = f", in {file.rpartition('site-packages/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return f"{kind} ({operation}) outside{library}"


def _note(kind, operation):
    _State.waits.append(wait_at(kind, operation))


class DeviceTensor(torch.Tensor):
    """A tensor of the device; `values` is the CPU tensor that it stands for."""

    @staticmethod
    def __new__(cls, values):
        about = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, values.size(), device=DEVICE, **about)
        made.values_on_cpu = values
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self, **_):
        return f"DeviceTensor({self.values_on_cpu!r})"

    def numpy(self, *_, **__):
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")

    __array__ = numpy

    def tolist(self):
        _note("to host", "tolist")
        return self.values_on_cpu.tolist()

    def data_ptr(self):
        return self.values_on_cpu.data_ptr()

    def __getitem__(self, index):
        return super().__getitem__(_lists_on_device(index))

    def __setitem__(self, index, value):
        super().__setitem__(_lists_on_device(index), value)

    def __deepcopy__(self, memo):
        made = DeviceTensor(self.values_on_cpu.clone()).requires_grad_(self.requires_grad)
        memo[id(self)] = (
            torch.nn.Parameter(made, self.requires_grad) if isinstance(self, torch.nn.Parameter) else made
        )
        return memo[id(self)]


def _lists_on_device(index):
    """Lists of an index become tensors of the device, as torch makes them."""
    if isinstance(index, tuple):
        return tuple(map(_lists_on_device, index))
    return torch.tensor(index, device=DEVICE) if isinstance(index, list) else index


class _Mode(TorchDispatchMode):
    """Sees what no tensor of the device takes part in: factories, and copies to the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {}, self)


def _cpu_values(value):
    return value.values_on_cpu if isinstance(value, DeviceTensor) else value


def _run(func, args, kwargs, mode=None):
    """Check an operation, note a wait, let the CPU compute it, and give the result to the device."""
    tensors = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    asked = kwargs.get("device")
    stays = bool(ours) if asked is None else torch.device(asked).type == NAME
    name = func._schema.name.partition("::")[2]
    if not ours and not stays:
        return func(*args, **kwargs)
    if not torch.is_inference_mode_enabled():
        return _compute(func, name, args, kwargs, tensors, stays)
    # Composite operations arrive whole here; elsewhere autograd has taken them apart.
    with mode or contextlib.nullcontext():
        parts = func.decompose(*args, **kwargs)
    if parts is not NotImplemented:
        return parts
    with torch.inference_mode(False), torch.no_grad():  # a view of a plain tensor must be a plain one
        return _compute(func, name, args, kwargs, tensors, stays)


def _compute(func, name, args, kwargs, tensors, stays):
    ours = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    if name == "copy_":
        return _copy(func, *args, **kwargs)
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if name == "_to_copy":
        is_copied = isinstance(args[0], DeviceTensor) != stays and args[0].numel() > 0
        if is_copied and not kwargs.get("non_blocking"):
            _note("to device" if stays else "to host", name)
    elif ours:
        _check(func, name, args, kwargs, ours, [t for t in tensors if not isinstance(t, DeviceTensor)])
    if kwargs.get("device") is not None and stays:
        kwargs["device"] = CPU
    if name == "_safe_softmax" and _State.dead_rows_are_nan:
        func = torch.ops.aten.softmax.int
    made = func(*tree_map(_cpu_values, args), **tree_map(_cpu_values, kwargs))
    known = {id(tensor.values_on_cpu): tensor for tensor in ours}  # what is changed in place stays itself

    def on_device(leaf):
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return known[id(leaf)] if id(leaf) in known else DeviceTensor(leaf)

    return tree_map(on_device, made) if stays else made


def _copy(func, target, source, *args, **kwargs):
    if isinstance(target, DeviceTensor) != isinstance(source, DeviceTensor) and source.numel():
        _note("to device" if isinstance(target, DeviceTensor) else "to host", "copy_")
    func(_cpu_values(target), _cpu_values(source), *args, **kwargs)
    return target


def _check(func, name, args, kwargs, ours, others):
    """Raise where a GPU would, and note the wait for an operation's result or index."""
    scalars_alone = all(tensor.dim() == 0 for tensor in others)
    if name in INDEXING and isinstance(args[0], DeviceTensor):
        index = [leaf for leaf in tree_iter(args[1]) if isinstance(leaf, torch.Tensor)]
        others = [tensor for tensor in others if not any(tensor is part for part in index)]
        if any(not isinstance(part, DeviceTensor) for part in index):
            _note("to device", f"{name} by an index of the CPU")
        elif any(part.dtype == torch.bool for part in index):
            _note("size", f"{name} by a mask")
        scalars_alone = all(tensor.dim() == 0 for tensor in others)
    elif not (torch.Tag.pointwise in func.tags or name in TAKES_CPU_SCALARS):
        scalars_alone = name.startswith(("_fused_", "_foreach_")) or not others
    if not scalars_alone:
        raise RuntimeError(
            f"{name}: tensors of two devices: {[(t.device, tuple(t.shape)) for t in ours + others]}"
        )
    for drawn in (leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Generator)):
        if drawn._cdata not in _State.generators:
            raise RuntimeError(f"{name}: a generator of the CPU for a tensor of {DEVICE}")
    if name in SIZE_FROM_VALUES | READS_VALUES:
        _note("size" if name in SIZE_FROM_VALUES else "to host", name)


class _Event:
    """A point in the device's work; here it is always done."""

    def __init__(self, *_, **__):
        pass

    def record(self, *_):
        pass

    def query(self):
        return True


@contextlib.contextmanager
def switched_on(dead_rows_are_nan=False):
    """The device is there; yields the list that waits are noted in.

    Args:
        dead_rows_are_nan: whether attention gives NaN, and not 0, to a query that may look at nothing.
    """
    make = torch.tensor

    def tensor(data, *args, device=None, **kwargs):  # torch's own does not ask the dispatcher
        made = make(data, *args, **kwargs)
        return made if device is None else made.to(device)

    before = {name: getattr(_State, name) for name in ("is_on", "dead_rows_are_nan", "waits")}
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # `module.to` keeps parameters themselves
    _State.is_on, _State.dead_rows_are_nan, _State.waits = True, dead_rows_are_nan, []
    try:
        with mock.patch("torch.tensor", tensor), mock.patch("torch.Event", _Event), _Mode():
            yield _State.waits
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swap)
        for name, value in before.items():
            setattr(_State, name, value)
