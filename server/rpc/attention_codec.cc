#include "server/rpc/attention_codec.h"

#include <utility>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/components/feature_map.h"

namespace mnemosyne::server {
namespace {

constexpr const char* kFeatureMaps[] = {
    "favor_plus", "favor_plus_plus", "hyperbolic", "relu", "elu", "dpfp"};

// Whole numbers of a request; those that are negative become too large for any bound.
size_t CountOr(int32_t given, size_t unset) {
  return given == 0 ? unset : static_cast<size_t>(given);
}

absl::StatusOr<kernels::RpeSpec> SpecOf(const v1::AttentionKernel& kernel) {
  const v1::PositionalEncoding& encoding = kernel.encoding();
  kernels::RpeSpec spec;
  if (!encoding.kind().empty()) {
    MNEMO_ASSIGN_OR_RETURN(spec.kind, kernels::RpeKindOf(encoding.kind()));
  }
  if (encoding.waves() < 0 || encoding.modes() < 0 || encoding.positions() < 0 ||
      encoding.modes() > 4096) {
    return InvalidArgument(
        "wrong size: {} waves, {} modes and {} coordinates, expected positive "
        "numbers of at most {}, 4096 and {}",
        encoding.waves(), encoding.modes(), encoding.positions(), kernels::kFltWaveMax,
        kernels::kFltPositionMax);
  }
  spec.heads = static_cast<size_t>(kernel.heads());
  spec.positions = CountOr(encoding.positions(), 1);
  spec.waves = CountOr(encoding.waves(), 32);
  spec.modes = CountOr(encoding.modes(), 8);
  spec.is_signed = encoding.signed_();
  spec.form =
      encoding.multiplicative() ? kernels::MaskForm::kMultiplicative : kernels::MaskForm::kAdditive;
  spec.squared = encoding.squared();
  if (encoding.frequency_scale() != 0) spec.frequency_scale = encoding.frequency_scale();
  if (encoding.has_norm_max()) spec.norm_max = encoding.norm_max();
  if (spec.waves > kernels::kFltWaveMax || spec.positions > kernels::kFltPositionMax) {
    return InvalidArgument("wrong size: {} waves over {} coordinates, expected at most {} over {}",
                           spec.waves, spec.positions, kernels::kFltWaveMax,
                           kernels::kFltPositionMax);
  }
  spec.base.assign(encoding.base_frequencies().begin(), encoding.base_frequencies().end());
  if (spec.base.empty()) {
    spec.base = kernels::DrawBaseFrequencies(spec.waves, spec.positions, kernel.seed());
  }
  spec.parameters.assign(encoding.parameters().begin(), encoding.parameters().end());
  return spec;
}

}  // namespace

absl::StatusOr<kernels::FltKernel> FromProto(const v1::AttentionKernel& kernel) {
  if (kernel.heads() < 1 || kernel.dim() < 1 || kernel.value_dim() < 0 || kernel.features() < 0) {
    return InvalidArgument(
        "wrong size: {} heads of {}, values of {}, {} features; expected "
        "positive numbers",
        kernel.heads(), kernel.dim(), kernel.value_dim(), kernel.features());
  }
  MNEMO_ASSIGN_OR_RETURN(const kernels::RpeSpec spec, SpecOf(kernel));
  MNEMO_ASSIGN_OR_RETURN(kernels::FltWaves waves, kernels::MakeWaves(spec));
  kernels::FltConfig config = {
      .heads = static_cast<size_t>(kernel.heads()),
      .dim = static_cast<size_t>(kernel.dim()),
      .value_dim = CountOr(kernel.value_dim(), static_cast<size_t>(kernel.dim())),
      .feature_map = kernel.feature_map().empty() ? "favor_plus" : kernel.feature_map(),
      .features = CountOr(kernel.features(), 64),
      .form = spec.form,
      .scale = static_cast<float>(kernel.scale()),
      .clamp_negative_masks = kernel.encoding().clamp_negative_masks()};
  const size_t inputs =
      config.dim + (spec.form == kernels::MaskForm::kAdditive ? 2 * waves.waves : 0);
  config.features = kernels::NearestFeatureCount(config.feature_map, inputs, config.features);
  MNEMO_ASSIGN_OR_RETURN(const kernels::FltProjectionShape shape,
                         kernels::FltProjectionOf(config, waves.waves));
  std::vector<float> projection(kernel.projection().begin(), kernel.projection().end());
  if (projection.empty()) {
    projection =
        kernels::DrawProjection(shape.rows, shape.inputs, kernels::RowNorms::kRoot, kernel.seed());
  }
  return kernels::MakeFltKernel(config, std::move(waves), projection);
}

absl::StatusOr<DataType> TensorType(const v1::AttentionKernel& kernel) {
  if (kernel.type() == v1::DATA_TYPE_UNSPECIFIED) return DataType::kFloat32;
  const auto type = static_cast<DataType>(kernel.type());
  if (v1::DataType_IsValid(kernel.type()) && IsWireType(type)) return type;
  return InvalidArgument("wrong type: number {}, expected float32, bfloat16 or float16",
                         static_cast<int>(kernel.type()));
}

v1::ListKernelsResponse DescribeKernels() {
  v1::ListKernelsResponse response;
  for (const char* map : kFeatureMaps) response.add_feature_maps(map);
  for (const auto kind : {kernels::RpeKind::kNone, kernels::RpeKind::kGaussianMixture,
                          kernels::RpeKind::kShiftInvariant, kernels::RpeKind::kLocalBox,
                          kernels::RpeKind::kLocalBall}) {
    response.add_encodings(std::string(kernels::RpeKindName(kind)));
  }
  for (const auto type : {v1::DATA_TYPE_FLOAT32, v1::DATA_TYPE_BFLOAT16, v1::DATA_TYPE_FLOAT16}) {
    response.add_types(type);
  }
  response.set_dim_max(static_cast<int32_t>(kernels::kFltDimMax));
  response.set_features_max(static_cast<int32_t>(kernels::kFltFeatureMax));
  response.set_waves_max(static_cast<int32_t>(kernels::kFltWaveMax));
  response.set_positions_max(static_cast<int32_t>(kernels::kFltPositionMax));
  response.set_length_max(static_cast<int64_t>(kernels::kFltLengthMax));
  return response;
}

}  // namespace mnemosyne::server
