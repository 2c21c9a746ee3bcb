// The checks of flt_attention.h.
#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/flt/flt_attention.h"

namespace mnemosyne::kernels {
namespace {

absl::Status CheckRows(const FltKernel* kernel, const FltRows& rows, DataType type) {
  if (kernel == nullptr) return InvalidArgument("missing kernel: make one with MakeFltKernel");
  if (rows.length < 1 || rows.length > kFltLengthMax) {
    return InvalidArgument("wrong size: length is {}, expected 1 to {}", rows.length,
                           kFltLengthMax);
  }
  if (rows.batch < 1) return InvalidArgument("wrong size: batch is 0, expected at least 1");
  if (!IsWireType(type)) {
    return InvalidArgument("wrong type: {}, expected float32, bfloat16 or float16",
                           DataTypeName(type));
  }
  if (kernel->sizes.waves > 0 && rows.positions == nullptr) {
    return InvalidArgument("missing positions: the mask has {} waves over {} coordinates",
                           kernel->sizes.waves, kernel->sizes.positions);
  }
  const auto starts = rows.sequence_starts;
  if (starts.empty()) return absl::OkStatus();
  if (starts.front() != 0 || starts.back() != rows.length || !std::ranges::is_sorted(starts)) {
    return InvalidArgument(
        "wrong sequence starts: they go from {} to {}, expected ascending numbers from 0 to the "
        "length {}",
        starts.front(), starts.back(), rows.length);
  }
  return absl::OkStatus();
}

template <typename Tensor>
absl::Status CheckTensor(std::string_view what, const Tensor& tensor, size_t width) {
  if (tensor.data == nullptr) return InvalidArgument("missing array: {} is null", what);
  if (tensor.row_stride >= width) return absl::OkStatus();
  return InvalidArgument("wrong stride: rows of {} are {} apart, expected at least {}", what,
                         tensor.row_stride, width);
}

}  // namespace

void InitFltState(const FltSizes& sizes, size_t count, float* states) {
  const size_t each = FltStateCount(sizes);
  std::fill_n(states, count * each, 0.0F);
  for (size_t i = 0; i < count; ++i, states += each) {
    if (IsExponential(sizes.map.shape)) std::fill_n(states, sizes.map.features, kFltNoKey);
    std::fill_n(states + each - sizes.positions, sizes.positions, kFltNoKey);
  }
}

absl::Status Check(const FltAttentionArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckRows(args.kernel, args.rows, args.type));
  const FltSizes& sizes = args.kernel->sizes;
  MNEMO_RETURN_IF_ERROR(CheckTensor("q", args.q, sizes.dim));
  MNEMO_RETURN_IF_ERROR(CheckTensor("k", args.k, sizes.dim));
  MNEMO_RETURN_IF_ERROR(CheckTensor("v", args.v, sizes.value_dim));
  MNEMO_RETURN_IF_ERROR(CheckTensor("out", args.out, sizes.value_dim));
  if (args.state != nullptr && (!args.rows.causal || args.rows.sequence_starts.size() > 2)) {
    return InvalidArgument("a running state needs causal attention over one sequence");
  }
  return absl::OkStatus();
}

absl::Status Check(const FltBackwardArgs& args) {
  MNEMO_RETURN_IF_ERROR(CheckRows(args.kernel, args.rows, args.type));
  const FltSizes& sizes = args.kernel->sizes;
  MNEMO_RETURN_IF_ERROR(CheckTensor("q", args.q, sizes.dim));
  MNEMO_RETURN_IF_ERROR(CheckTensor("k", args.k, sizes.dim));
  MNEMO_RETURN_IF_ERROR(CheckTensor("v", args.v, sizes.value_dim));
  MNEMO_RETURN_IF_ERROR(CheckTensor("out", args.out, sizes.value_dim));
  MNEMO_RETURN_IF_ERROR(CheckTensor("out_gradient", args.out_gradient, sizes.value_dim));
  if (args.normalizers == nullptr) {
    return InvalidArgument("missing array: normalizers is null; ask the forward pass for them");
  }
  if (args.q_gradient.data == nullptr && args.k_gradient.data == nullptr &&
      args.v_gradient.data == nullptr) {
    return absl::OkStatus();
  }
  MNEMO_RETURN_IF_ERROR(CheckTensor("q_gradient", args.q_gradient, sizes.dim));
  MNEMO_RETURN_IF_ERROR(CheckTensor("k_gradient", args.k_gradient, sizes.dim));
  return CheckTensor("v_gradient", args.v_gradient, sizes.value_dim);
}

}  // namespace mnemosyne::kernels
