"""In: one tensor operation with its arguments. Out: its multiply-accumulates, or that it is known to have none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from separable.spec import ConvSpec


@dataclass(frozen=True, kw_only=True)
class Work:
    """The multiply-accumulates of one operation: the two (or three) tensors it multiplies, and over how many rows."""

    macs: int
    label: str
    kind: str
    operands: tuple[Tensor, ...]
    batch: int
    spec: ConvSpec | None = None


def work_of(operation: torch._ops.OpOverload[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Work | None:
    """What ``operation`` multiplies; None when it is no convolution and no matrix product that is known."""
    formula = _FORMULAS.get(operation._schema.name)
    if formula is None:
        return None
    missing = operation._schema.arguments[len(args) :]
    return formula([*args, *(kwargs.get(argument.name, argument.default_value) for argument in missing)])


def is_known(operation: torch._ops.OpOverload[..., Any]) -> bool:
    """Whether it is known how many multiply-accumulates ``operation`` has, be it none."""
    if operation.is_view or not _FREE_TAGS.isdisjoint(operation.tags):
        return True
    name = operation._schema.name
    return name in _FORMULAS or name.removesuffix("_") in _FREE


def _convolution(values: Sequence[Any]) -> Work:
    x, weight, _, stride, padding, dilation, is_transposed, _, groups = values
    dims = weight.dim() - 2
    if is_transposed:
        # Every input element meets every weight of its input channel once.
        macs = x.shape[0] * math.prod(x.shape[2:]) * weight.numel()
        return Work(
            macs=macs, label=f"conv_transpose{dims}d", kind="transposed", operands=(x, weight), batch=x.shape[0]
        )
    spec = ConvSpec(
        x.shape[1],
        weight.shape[0],
        kernel=tuple(weight.shape[2:]),
        size=tuple(x.shape[2:]),
        stride=_along(stride, dims),
        padding=_along(padding, dims),
        dilation=_along(dilation, dims),
        groups=groups,
    )
    return Work(
        macs=x.shape[0] * spec.macs,
        label=f"conv{dims}d",
        kind=spec.kind,
        operands=(x, weight),
        batch=x.shape[0],
        spec=spec,
    )


def _along(entries: Sequence[int], dims: int) -> tuple[int, ...]:
    """PyTorch takes one entry for all axes."""
    return tuple(entries) * dims if len(entries) == 1 else tuple(entries)


def _product(values: Sequence[Any]) -> Work:
    a, b = values[:2]
    macs = a.numel() * (b.shape[-1] if b.dim() > 1 else 1)
    return Work(macs=macs, label="matmul", kind="matmul", operands=(a, b), batch=a.shape[0])


def _added_product(values: Sequence[Any]) -> Work:
    return _product(values[1:])


def _attention(values: Sequence[Any]) -> Work:
    """q (…, s_q, e) with k (…, s_k, e), then with v (…, s_k, e_v); a causal mask saves nothing here."""
    q, k, v = values[:3]
    macs = q.numel() * k.shape[-2] + math.prod(q.shape[:-1]) * k.shape[-2] * v.shape[-1]
    return Work(macs=macs, label="attention", kind="matmul", operands=(q, k, v), batch=q.shape[0])


def _recurrence(values: Sequence[Any]) -> Work:
    """x (time, n, features): both weight matrices once a step and row."""
    x, w_input, w_hidden = values[:3]
    macs = x.shape[0] * x.shape[1] * (w_input.numel() + w_hidden.numel())
    return Work(macs=macs, label="recurrence", kind="matmul", operands=(x, w_input, w_hidden), batch=x.shape[1])


_FORMULAS: dict[str, Callable[[Sequence[Any]], Work]] = {
    "aten::convolution": _convolution,
    **{f"aten::{name}": _product for name in ("mm", "bmm", "mv", "dot", "vdot")},
    **{f"aten::{name}": _added_product for name in ("addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation")},
    **{f"aten::{name}_": _added_product for name in ("addmm", "baddbmm", "addbmm", "addmv")},
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention": _attention,
    "aten::_scaled_dot_product_efficient_attention": _attention,
    "aten::_scaled_dot_product_cudnn_attention": _attention,
    "aten::mkldnn_rnn_layer": _recurrence,
}

# Multiplies nothing, or element by element: outside the convention, so known to be free, as is everything that PyTorch
# tags as a view, pointwise or a reduction. A name covers its in-place form.
_FREE_TAGS = {torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.inplace_view}
_FREE_NAMES = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool2d avg_pool3d
    max_pool2d_with_indices max_pool3d_with_indices fractional_max_pool2d fractional_max_pool3d max_unpool2d
    max_unpool3d native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
    _batch_norm_with_update _batch_norm_no_update native_layer_norm native_group_norm _fused_rms_norm
    _weight_norm_interface _softmax _log_softmax _safe_softmax _prelu_kernel rrelu_with_noise glu native_dropout
    _fused_dropout upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
    upsample_trilinear3d upsample_bicubic2d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler_2d grid_sampler_3d
    affine_grid_generator constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d cat stack unsafe_split unsafe_chunk roll flip repeat repeat_interleave
    pixel_shuffle pixel_unshuffle native_channel_shuffle channel_shuffle im2col col2im index index_select index_put
    _unsafe_index gather scatter scatter_add scatter_reduce index_add index_copy index_fill embedding _embedding_bag
    _embedding_bag_forward_only take masked_fill masked_select masked_scatter nonzero tril triu sort topk kthvalue
    unique_dim _unique2 bucketize searchsorted cumsum cumprod clone copy _to_copy resize set fill zero empty
    empty_like empty_strided empty_permuted new_empty new_empty_strided new_zeros new_ones new_full full full_like
    zeros zeros_like ones ones_like arange linspace eye scalar_tensor rand randn rand_like randn_like randint
    randint_like randperm bernoulli uniform normal lift lift_fresh lift_fresh_copy _unsafe_view _local_scalar_dense
    equal bincount one_hot _thnn_fused_lstm_cell _thnn_fused_gru_cell _assert_async _assert_tensor_metadata
    log_sigmoid_forward hardswish exponential resize_as mse_loss smooth_l1_loss huber_loss soft_margin_loss
    binary_cross_entropy binary_cross_entropy_with_logits nll_loss_forward nll_loss2d_forward
"""
_FREE = frozenset(f"aten::{name}" for name in _FREE_NAMES.split())
