"""FLT attention for PyTorch: linear attention with relative positional encodings that are learned.

`flt_attention` is an autograd function over the compiled kernels, `FLTAttention` a module that
takes the place of multi-head self-attention, with learnable parameters of its encoding. Time and
memory are linear in the length, and the gradients' memory, too. docs/flt.md has the mathematics.

    attention = FLTAttention(256, heads=8, rpe=Rpe("gaussian_mixture"), causal=True)
    y = attention(x)  # [batch, length, 256]
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
from typing import Any

import torch
from torch.utils import dlpack

from mnemosyne_client import _flt_library as lib
from mnemosyne_client.errors import InvalidRequestError

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclasses.dataclass(frozen=True)
class Rpe:
    """A family of relative positional encodings f(r_i - r_j).

    Attributes:
        kind: "none", "gaussian_mixture", "shift_invariant" (a Gaussian kernel), "local_box" (in 1-D
            a window) or "local_ball" (3-D).
        positions: Coordinates of a position, 1 to 3.
        waves: Waves that the mask is a sum of.
        modes: Gaussians of a mixture.
        signed: Whether f(z) may differ from f(-z).
        form: "additive" puts f into the exponent; "multiplicative" makes the mask a factor.
        squared: Multiplicative masks that are squares, and so never negative.
        clamp_negative_masks: Lets a multiplicative mask be negative and holds denominators up.
        frequency_scale: Standard deviation of frequencies, in cycles per unit of position.
        norm_max: Bound of the sum of the magnitudes of a mask's weights; 0 for none. The error of
            random features grows with the exponential of it.
    """

    kind: str = "gaussian_mixture"
    positions: int = 1
    waves: int = 32
    modes: int = 8
    signed: bool = False
    form: str = "additive"
    squared: bool = False
    clamp_negative_masks: bool = False
    frequency_scale: float = 0.1
    norm_max: float = 0.5


@dataclasses.dataclass(frozen=True)
class FltSpec:
    """Everything about a kernel but its numbers."""

    heads: int
    dim: int
    value_dim: int
    rpe: Rpe = Rpe("none")
    feature_map: str = "favor_plus"
    features: int = 64
    scale: float = 0.0  # Of q . k; 0 is 1 / sqrt(dim).
    square_sum: float = 2.0  # Of favor_plus_plus.
    epsilon: float = 1e-3  # Of relu.

    def config(self) -> lib.Config:
        """Returns it as the library wants it.

        Raises:
            InvalidRequestError: If the form of the mask is unknown.
        """
        if self.rpe.form not in ("additive", "multiplicative"):
            raise InvalidRequestError(
                f"unknown form: {self.rpe.form!r}, expected 'additive' or 'multiplicative'"
            )
        return lib.Config(
            ctypes.sizeof(lib.Config),
            self.heads,
            self.dim,
            self.value_dim,
            self.features,
            self.feature_map.encode(),
            self.scale,
            self.square_sum,
            self.epsilon,
            self.rpe.kind.encode(),
            self.rpe.positions,
            self.rpe.waves,
            self.rpe.modes,
            self.rpe.signed,
            self.rpe.form == "multiplicative",
            self.rpe.squared,
            self.rpe.clamp_negative_masks,
            self.rpe.frequency_scale,
            self.rpe.norm_max,
        )

    def parameter_count(self) -> int:
        """Parameters of the encoding, a head."""
        return int(lib.sizes(self.config()).parameters)

    def draw_projection(self, seed: int = 0, chi: bool = False) -> torch.Tensor:
        """Draws a projection [rows, inputs], of rows that are orthogonal in blocks.

        Args:
            seed: The same seed gives the same numbers everywhere.
            chi: Norms are those of normal vectors, without a bias; else all are sqrt(inputs), with
                less variance.
        """
        config, sizes = self.config(), lib.sizes(self.config())
        result = torch.empty(sizes.projection_rows, sizes.projection_inputs)
        lib.check(
            lib.library().mnemosyne_flt_draw_projection(
                ctypes.byref(config), chi, seed, result.data_ptr()
            )
        )
        return result

    def draw_frequencies(self, seed: int = 0) -> torch.Tensor:
        """Draws base frequencies [waves, positions], which are kept and never drawn again."""
        if self.rpe.kind == "none":
            return torch.empty(0)
        result = torch.empty(self.rpe.waves, self.rpe.positions)
        lib.check(
            lib.library().mnemosyne_flt_draw_frequencies(
                self.rpe.waves, self.rpe.positions, seed, result.data_ptr()
            )
        )
        return result

    def initial_parameters(self, seed: int = 0) -> torch.Tensor:
        """Draws parameters [heads, count] of the encoding, with a mask that is nearly flat."""
        count, rpe = self.parameter_count(), self.rpe
        generator = torch.Generator().manual_seed(seed)
        result = torch.zeros(self.heads, count)
        if rpe.kind == "none":
            return result
        if rpe.kind == "gaussian_mixture":
            weights = rpe.modes * (2 if rpe.signed else 1)
            centers = rpe.modes * rpe.positions
            result[:, :weights] = 0.01 * torch.randn(self.heads, weights, generator=generator)
            result[:, weights : weights + centers] = rpe.frequency_scale * torch.randn(
                self.heads, centers, generator=generator
            )
            result[:, weights + centers : weights + centers + rpe.modes] = 2 * math.log(
                rpe.frequency_scale
            )
        else:
            widths = 1 if rpe.kind == "local_ball" else rpe.positions
            result[:, 0] = 0.1
            unit = -2 if rpe.kind == "shift_invariant" else 1
            result[:, 1 : 1 + widths] = unit * math.log(0.25 / rpe.frequency_scale)
        if rpe.form == "multiplicative":
            result[:, -1] = 0.05 if rpe.squared else max(rpe.norm_max, 0.1)
        return result


def _pair(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the tensor with contiguous rows."""
    tensor = tensor.detach()
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _wait_for(tensor: torch.Tensor) -> None:
    """Waits for what PyTorch has queued; the library waits for its own stream itself."""
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()


class _Pointers:
    """Keeps the DLPack capsules of a call alive."""

    def __init__(self) -> None:
        self._capsules: list[Any] = []

    def __call__(self, tensor: torch.Tensor | None) -> int | None:
        if tensor is None:
            return None
        capsule = dlpack.to_dlpack(tensor)
        self._capsules.append(capsule)
        return lib.tensor_pointer(capsule)


@dataclasses.dataclass
class _Options:
    """What does not take part in differentiation."""

    spec: FltSpec
    causal: bool
    mask: torch.Tensor | None
    sequence_starts: list[int] | None
    state: torch.Tensor | None
    threads: int
    clamped_rows: int = 0

    def call(
        self,
        pointers: _Pointers,
        tensors: list[torch.Tensor],
        positions: torch.Tensor | None,
        normalizers: torch.Tensor | None,
    ) -> lib.Call:
        """Returns the call of q, k, v and out."""
        starts = self.sequence_starts or []
        return lib.Call(
            ctypes.sizeof(lib.Call),
            *[pointers(tensor) for tensor in tensors],
            pointers(positions),
            pointers(self.mask),
            pointers(self.state),
            pointers(normalizers),
            self.causal,
            self.threads,
            (ctypes.c_size_t * len(starts))(*starts) if starts else None,
            len(starts),
            0,
        )


class _FltAttention(torch.autograd.Function):
    """The kernels with their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        positions: torch.Tensor | None,
        parameters: torch.Tensor,
        projection: torch.Tensor,
        base: torch.Tensor,
        options: _Options,
    ) -> torch.Tensor:
        q, k, v = _rows(q), _rows(k), _rows(v)
        ctx.host = [_on_host(x) for x in (base, parameters, projection)]
        kernel = lib.Kernel(options.spec.config(), *[_pair(x) for x in ctx.host])
        out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
        needed = any(ctx.needs_input_grad)
        normalizers = None
        if needed:
            normalizers = torch.empty(*q.shape[:3], 2, dtype=torch.float32, device=q.device)
        pointers = _Pointers()
        call = options.call(pointers, [q, k, v, out], positions, normalizers)
        _wait_for(q)
        kernel.forward(call)
        options.clamped_rows = int(call.clamped_rows)
        ctx.options, ctx.kernel, ctx.positions = options, kernel, positions
        ctx.like = (parameters, projection)
        if needed:
            ctx.save_for_backward(q, k, v, out, normalizers)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        q, k, v, out, normalizers = ctx.saved_tensors
        options: _Options = ctx.options
        if options.state is not None:
            raise InvalidRequestError(
                "a running state has no gradient; differentiate a call over the whole sequence"
            )
        gradient = _rows(gradient.to(out.dtype))
        grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)]
        _, parameters, projection = ctx.host
        wants_parameters = ctx.needs_input_grad[4] and parameters.numel() > 0
        wants_projection = ctx.needs_input_grad[5] and projection.numel() > 0
        of_parameters = torch.zeros_like(parameters) if wants_parameters else None
        of_projection = torch.zeros_like(projection) if wants_projection else None
        pointers = _Pointers()
        call = options.call(pointers, [q, k, v, out], ctx.positions, normalizers)
        wanted = lib.Gradients(
            ctypes.sizeof(lib.Gradients),
            pointers(gradient),
            *[pointers(x) for x in grads],
            None if of_parameters is None else of_parameters.data_ptr(),
            None if of_projection is None else of_projection.data_ptr(),
        )
        _wait_for(q)
        ctx.kernel.backward(call, wanted)
        like_parameters, like_projection = ctx.like
        return (
            *grads,
            None,
            None if of_parameters is None else of_parameters.to(like_parameters),
            None if of_projection is None else of_projection.to(like_projection),
            None,
            None,
        )


def flt_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: torch.Tensor | None,
    rpe: Rpe,
    *,
    parameters: torch.Tensor | None = None,
    projection: torch.Tensor | None = None,
    base: torch.Tensor | None = None,
    causal: bool = False,
    mask: torch.Tensor | None = None,
    sequence_starts: list[int] | None = None,
    state: torch.Tensor | None = None,
    feature_map: str = "favor_plus",
    features: int = 64,
    scale: float = 0.0,
    seed: int = 0,
    threads: int = 0,
) -> torch.Tensor:
    """Attends with linear attention and a relative positional encoding.

    Args:
        q: Queries [batch, heads, length, dim]; float32, bfloat16 or float16.
        k: Keys, as the queries.
        v: Values [batch, heads, length, value_dim].
        positions: [length, l], [length] or [batch, length, l]; by default 0, 1, 2, ...
        rpe: The family of the encoding.
        parameters: Its parameters [heads, count]; by default those of a nearly flat mask.
        projection: [rows, inputs], or [heads, rows, inputs]; drawn from `seed` by default.
        base: Base frequencies [waves, l] or [heads, waves, l]; drawn from `seed` by default.
        causal: Whether a row sees itself and those before it, rather than all.
        mask: [batch, length], False for padding: it is not seen, and answers 0.
        sequence_starts: Where packed sequences start, and the length at the end.
        state: [batch, heads, count] of a causal stream from `initial_state`, which is advanced.
        feature_map: "favor_plus", "favor_plus_plus", "hyperbolic", "relu", "elu" or "dpfp".
        features: How many, nearly, if the map cannot have all numbers.
        scale: Of q . k; 0 is 1 / sqrt(dim).
        seed: Of what is drawn.
        threads: On the CPU; 0 is one for each core. The bits do not depend on it.

    Returns:
        [batch, heads, length, value_dim].

    Raises:
        InvalidRequestError: For shapes that do not agree, sizes out of range, and numbers that are
            not finite.
    """
    if q.dim() != 4 or v.dim() != 4:
        raise InvalidRequestError(
            f"wrong shape: q is {list(q.shape)} and v is {list(v.shape)}, expected "
            "[batch, heads, length, dim]"
        )
    if q.dtype not in _TYPES:
        raise InvalidRequestError(
            f"wrong type: q is {q.dtype}, expected float32, bfloat16 or float16"
        )
    spec = FltSpec(q.shape[1], q.shape[3], v.shape[3], rpe, feature_map, features, scale)
    if parameters is None:
        parameters = spec.initial_parameters(seed)
    if projection is None:
        projection = spec.draw_projection(seed)
    if base is None:
        base = spec.draw_frequencies(seed)
    if positions is None and rpe.kind != "none":
        positions = torch.arange(q.shape[2], device=q.device)
    if rpe.kind == "none":
        positions = None
    if positions is not None:
        if positions.dim() == 1:
            positions = positions[:, None]
        positions = positions.detach().to(q.device, torch.float32).contiguous()
    if mask is not None:
        mask = mask.to(q.device, torch.uint8).contiguous()
    options = _Options(spec, causal, mask, sequence_starts, state, threads)
    result: torch.Tensor = _FltAttention.apply(
        q, k, v, positions, parameters, projection, base, options
    )
    return result


def initial_state(spec: FltSpec, batch: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Returns the state of `batch` causal streams before their first key."""
    host = [
        _on_host(x) for x in (spec.draw_frequencies(), spec.initial_parameters(),
                              spec.draw_projection())
    ]  # fmt: skip
    kernel = lib.Kernel(spec.config(), *[_pair(x) for x in host])
    state = torch.empty(batch, spec.heads, int(lib.sizes(spec.config()).state))
    kernel.init_state(batch * spec.heads, state.data_ptr())
    return state.to(device)


class FLTAttention(torch.nn.Module):
    """Multi-head self-attention in linear time with a learned relative positional encoding.

    The parameters of the encoding are learned; the projection and the base frequencies are buffers,
    saved with the module, unless the projection is to be learned, too.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        rpe: Rpe | None = None,
        *,
        causal: bool = False,
        feature_map: str = "favor_plus",
        features: int = 64,
        bias: bool = True,
        learn_projection: bool = False,
        normalize: bool = True,
        seed: int = 0,
    ) -> None:
        """Makes the layers.

        Args:
            dim: Width of the tokens; `heads` divides it.
            heads: Number of heads.
            rpe: The family of the encoding; by default a mixture of Gaussians.
            causal: Whether a token sees itself and those before it.
            feature_map: See `flt_attention`.
            features: See `flt_attention`.
            bias: Whether the dense layers have one.
            learn_projection: Whether the projection is a parameter.
            normalize: Whether queries and keys are scaled to a norm of sqrt(head dim), with a
                learned temperature: random features are accurate for bounded norms only.
            seed: Of what is drawn.

        Raises:
            InvalidRequestError: For sizes out of range.
        """
        super().__init__()
        if dim % heads != 0:
            raise InvalidRequestError(f"wrong size: {heads} heads do not divide {dim}")
        width = dim // heads
        self.spec = FltSpec(
            heads, width, width, rpe if rpe is not None else Rpe(), feature_map, features
        )
        self.causal = causal
        self.qkv = torch.nn.Linear(dim, 3 * dim, bias=bias)
        self.out = torch.nn.Linear(dim, dim, bias=bias)
        self.rpe_parameters = torch.nn.Parameter(self.spec.initial_parameters(seed))
        projection = self.spec.draw_projection(seed)
        if learn_projection:
            self.projection = torch.nn.Parameter(projection)
        else:
            self.register_buffer("projection", projection)
        self.register_buffer("base", self.spec.draw_frequencies(seed))
        self.temperature = torch.nn.Parameter(torch.zeros(heads)) if normalize else None

    def _unit(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of norm dim^(1/4) e^(t/2), so that a scaled product is at most e^t."""
        if self.temperature is None:
            return x
        size = self.spec.dim**0.25 * torch.exp(0.5 * self.temperature)[:, None, None]
        return torch.nn.functional.normalize(x, dim=-1) * size.to(x.dtype)

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attends among the tokens x [batch, length, dim]; see `flt_attention`."""
        batch, length, dim = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.spec.heads, self.spec.dim)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = flt_attention(
            self._unit(q),
            self._unit(k),
            v,
            positions,
            self.spec.rpe,
            parameters=self.rpe_parameters,
            projection=self.projection,
            base=self.base,
            causal=self.causal,
            mask=mask,
            feature_map=self.spec.feature_map,
            features=self.spec.features,
        )
        return self.out(y.transpose(1, 2).reshape(batch, length, dim))
