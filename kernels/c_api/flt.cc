#include "kernels/c_api/flt.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/backend.h"
#include "kernels/components/feature_map.h"
#include "kernels/flt/rpe.h"

struct MnemosyneFltKernel {
  mnemosyne::kernels::RpeSpec spec;
  mnemosyne::kernels::FltKernel kernel;
};

namespace mnemosyne::kernels {
namespace {

constexpr int32_t kCpuDevice = 1, kCudaDevice = 2;
constexpr uint8_t kUnsigned = 1, kFloat = 2, kBfloat = 4, kBool = 6;

thread_local std::string last_error;

int Answer(const absl::Status& status) {
  if (status.ok()) return 0;
  last_error = std::string(ErrorMessage(status));
  return static_cast<int>(status.code());
}

// A backend for each device and number of threads; made anew in a child process, which has none of
// its parent's threads.
class Backends {
 public:
  // Calls work(backend) while no other call is on it.
  template <typename Work>
  absl::Status With(const std::string& device, int threads, const Work& work) {
    const std::lock_guard lock(mutex_);
    if (process_ != getpid()) {
      for (auto& [key, backend] : backends_) static_cast<void>(backend.release());
      backends_.clear();
      process_ = getpid();
    }
    auto& backend = backends_[{device, threads}];
    if (backend == nullptr) {
      MNEMO_ASSIGN_OR_RETURN(backend, CreateBackend(device, {.threads = threads}));
    }
    return work(*backend);
  }

 private:
  std::mutex mutex_;
  pid_t process_ = 0;
  std::map<std::pair<std::string, int>, std::unique_ptr<Backend>> backends_;
};

Backends& AllBackends() {
  static Backends* const backends = new Backends;  // Never freed: calls may come at exit.
  return *backends;
}

absl::StatusOr<RpeSpec> SpecOf(const MnemosyneFltConfig& config) {
  if (config.struct_size != sizeof(MnemosyneFltConfig)) {
    return InvalidArgument("wrong version: the caller's config has {} bytes, the library's {}",
                           config.struct_size, sizeof(MnemosyneFltConfig));
  }
  RpeSpec spec;
  MNEMO_ASSIGN_OR_RETURN(spec.kind, RpeKindOf(config.rpe == nullptr ? "none" : config.rpe));
  spec.heads = config.heads;
  spec.positions = config.positions;
  spec.waves = config.waves;
  spec.modes = config.modes;
  spec.is_signed = config.is_signed != 0;
  spec.form = config.multiplicative != 0 ? MaskForm::kMultiplicative : MaskForm::kAdditive;
  spec.squared = config.squared != 0;
  spec.frequency_scale = config.frequency_scale;
  spec.norm_max = config.norm_max;
  return spec;
}

FltConfig KernelConfig(const MnemosyneFltConfig& config, const RpeSpec& spec) {
  FltConfig result = {.heads = config.heads,
                      .dim = config.dim,
                      .value_dim = config.value_dim,
                      .feature_map = config.feature_map == nullptr ? "" : config.feature_map,
                      .features = config.features,
                      .form = spec.form,
                      .scale = static_cast<float>(config.scale),
                      .square_sum = config.square_sum,
                      .epsilon = config.epsilon,
                      .clamp_negative_masks = config.clamp_negative_masks != 0};
  const size_t inputs =
      config.dim + (spec.form == MaskForm::kAdditive ? 2 * RpeWaveCount(spec) : 0);
  result.features = NearestFeatureCount(result.feature_map, inputs, config.features);
  return result;
}

// A tensor's type, or an error.
absl::StatusOr<DataType> TypeOf(const char* name, const MnemosyneFltTensor& tensor) {
  if (tensor.type_lanes == 1) {
    if (tensor.type_code == kFloat && tensor.type_bits == 32) return DataType::kFloat32;
    if (tensor.type_code == kFloat && tensor.type_bits == 16) return DataType::kFloat16;
    if (tensor.type_code == kBfloat && tensor.type_bits == 16) return DataType::kBFloat16;
  }
  return InvalidArgument("wrong type: {} is neither float32 nor bfloat16 nor float16", name);
}

std::byte* DataOf(const MnemosyneFltTensor& tensor) {
  return static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
}

// The stride of an axis in elements.
size_t StrideOf(const MnemosyneFltTensor& tensor, int axis) {
  if (tensor.strides != nullptr) return static_cast<size_t>(tensor.strides[axis]);
  size_t stride = 1;
  for (int i = tensor.ndim - 1; i > axis; --i) stride *= static_cast<size_t>(tensor.shape[i]);
  return stride;
}

std::string ShapeText(const MnemosyneFltTensor& tensor) {
  std::string text;
  for (int i = 0; i < tensor.ndim; ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : ", ", tensor.shape[i]);
  }
  return "[" + text + "]";
}

// Checks a tensor against a shape; all of it must be contiguous, or only rows.
absl::Status CheckShape(const char* name, const MnemosyneFltTensor* tensor,
                        std::initializer_list<size_t> shape, bool rows_only) {
  if (tensor == nullptr) return InvalidArgument("missing array: {} is null", name);
  bool fits = tensor->ndim == static_cast<int>(shape.size());
  std::string wanted;
  for (size_t i = 0; i < shape.size(); ++i) {
    const size_t size = *(shape.begin() + i);
    wanted += fmt::format("{}{}", i == 0 ? "" : ", ", size);
    fits = fits && static_cast<size_t>(tensor->shape[i]) == size;
  }
  if (!fits) {
    return InvalidArgument("wrong shape: {} is {}, expected [{}]", name, ShapeText(*tensor),
                           wanted);
  }
  size_t stride = 1;
  for (int i = tensor->ndim - 1; i >= 0; --i) {
    const auto size = static_cast<size_t>(tensor->shape[i]);
    if (size > 1 && StrideOf(*tensor, i) != stride) {
      return InvalidArgument("not contiguous: {} has a stride of {} on axis {}, expected {}", name,
                             StrideOf(*tensor, i), i, stride);
    }
    stride *= size;
    if (rows_only) break;
  }
  return absl::OkStatus();
}

template <typename Tensor>
Tensor View(const MnemosyneFltTensor& tensor) {
  return {DataOf(tensor), StrideOf(tensor, 0), StrideOf(tensor, 1), StrideOf(tensor, 2)};
}

// The shape of a call.
struct CallShape {
  size_t batch, length;
  DataType type;
  std::string device;
};

absl::StatusOr<CallShape> CheckCall(const FltKernel& kernel, const MnemosyneFltCall& call) {
  if (call.struct_size != sizeof(MnemosyneFltCall)) {
    return InvalidArgument("wrong version: the caller's call has {} bytes, the library's {}",
                           call.struct_size, sizeof(MnemosyneFltCall));
  }
  const FltSizes& sizes = kernel.sizes;
  if (call.q == nullptr) return InvalidArgument("missing array: q is null");
  if (call.q->ndim != 4) {
    return InvalidArgument("wrong shape: q is {}, expected [batch, heads, length, dim]",
                           ShapeText(*call.q));
  }
  CallShape shape = {};
  shape.batch = static_cast<size_t>(call.q->shape[0]);
  shape.length = static_cast<size_t>(call.q->shape[2]);
  MNEMO_ASSIGN_OR_RETURN(shape.type, TypeOf("q", *call.q));
  const auto check = [&](const char* name, const MnemosyneFltTensor* tensor, size_t width) {
    MNEMO_RETURN_IF_ERROR(
        CheckShape(name, tensor, {shape.batch, sizes.heads, shape.length, width}, true));
    MNEMO_ASSIGN_OR_RETURN(const DataType type, TypeOf(name, *tensor));
    if (type == shape.type && tensor->device_type == call.q->device_type) return absl::OkStatus();
    return InvalidArgument("wrong type: {} is {}, q is {}; all must be alike, on one device", name,
                           DataTypeName(type), DataTypeName(shape.type));
  };
  MNEMO_RETURN_IF_ERROR(check("q", call.q, sizes.dim));
  MNEMO_RETURN_IF_ERROR(check("k", call.k, sizes.dim));
  MNEMO_RETURN_IF_ERROR(check("v", call.v, sizes.value_dim));
  MNEMO_RETURN_IF_ERROR(check("out", call.out, sizes.value_dim));
  if (call.positions != nullptr && sizes.waves > 0) {
    const bool each = call.positions->ndim == 3;
    MNEMO_RETURN_IF_ERROR(
        each ? CheckShape("positions", call.positions, {shape.batch, shape.length, sizes.positions},
                          false)
             : CheckShape("positions", call.positions, {shape.length, sizes.positions}, false));
    if (call.positions->type_code != kFloat || call.positions->type_bits != 32) {
      return InvalidArgument("wrong type: positions are not float32");
    }
  }
  if (call.mask != nullptr) {
    MNEMO_RETURN_IF_ERROR(CheckShape("mask", call.mask, {shape.batch, shape.length}, false));
    if (call.mask->type_bits != 8 ||
        (call.mask->type_code != kUnsigned && call.mask->type_code != kBool)) {
      return InvalidArgument("wrong type: the mask is neither bytes nor booleans");
    }
  }
  if (call.state != nullptr) {
    MNEMO_RETURN_IF_ERROR(
        CheckShape("state", call.state, {shape.batch, sizes.heads, FltStateCount(sizes)}, false));
  }
  if (call.normalizers != nullptr) {
    MNEMO_RETURN_IF_ERROR(CheckShape("normalizers", call.normalizers,
                                     {shape.batch, sizes.heads, shape.length, 2}, false));
  }
  if (call.q->device_type == kCpuDevice) {
    shape.device = "cpu";
  } else if (call.q->device_type == kCudaDevice) {
    shape.device = fmt::format("cuda:{}", call.q->device_id);
  } else {
    return InvalidArgument("wrong device: q is neither in host memory nor on a CUDA device");
  }
  return shape;
}

FltRows RowsOf(const MnemosyneFltCall& call, const CallShape& shape) {
  FltRows rows;
  rows.batch = shape.batch;
  rows.length = shape.length;
  rows.causal = call.causal != 0;
  rows.sequence_starts = {call.sequence_starts, call.start_count};
  if (call.mask != nullptr) rows.mask = reinterpret_cast<const uint8_t*>(DataOf(*call.mask));
  if (call.positions != nullptr) {
    rows.positions = reinterpret_cast<const float*>(DataOf(*call.positions));
    rows.positions_per_batch = call.positions->ndim == 3;
  }
  return rows;
}

float* FloatsOf(const MnemosyneFltTensor* tensor) {
  return tensor == nullptr ? nullptr : reinterpret_cast<float*>(DataOf(*tensor));
}

absl::Status Forward(const FltKernel& kernel, MnemosyneFltCall& call) {
  MNEMO_ASSIGN_OR_RETURN(const CallShape shape, CheckCall(kernel, call));
  FltReport report;
  const FltAttentionArgs args = {.kernel = &kernel,
                                 .rows = RowsOf(call, shape),
                                 .type = shape.type,
                                 .q = View<TensorIn>(*call.q),
                                 .k = View<TensorIn>(*call.k),
                                 .v = View<TensorIn>(*call.v),
                                 .out = View<TensorOut>(*call.out),
                                 .state = FloatsOf(call.state),
                                 .normalizers = FloatsOf(call.normalizers),
                                 .report = &report};
  MNEMO_RETURN_IF_ERROR(AllBackends().With(
      shape.device, call.threads, [&](Backend& backend) { return backend.FltAttention(args); }));
  call.clamped_rows = report.clamped_rows;
  return absl::OkStatus();
}

absl::Status Backward(const MnemosyneFltKernel& kernel, const MnemosyneFltCall& call,
                      const MnemosyneFltGradients& gradients) {
  if (gradients.struct_size != sizeof(MnemosyneFltGradients)) {
    return InvalidArgument("wrong version: the caller's gradients have {} bytes, the library's {}",
                           gradients.struct_size, sizeof(MnemosyneFltGradients));
  }
  const FltSizes& sizes = kernel.kernel.sizes;
  MNEMO_ASSIGN_OR_RETURN(const CallShape shape, CheckCall(kernel.kernel, call));
  const auto check = [&](const char* name, const MnemosyneFltTensor* tensor, size_t width) {
    MNEMO_RETURN_IF_ERROR(
        CheckShape(name, tensor, {shape.batch, sizes.heads, shape.length, width}, true));
    MNEMO_ASSIGN_OR_RETURN(const DataType type, TypeOf(name, *tensor));
    if (type == shape.type) return absl::OkStatus();
    return InvalidArgument("wrong type: {} is {}, q is {}", name, DataTypeName(type),
                           DataTypeName(shape.type));
  };
  MNEMO_RETURN_IF_ERROR(check("out_gradient", gradients.out_gradient, sizes.value_dim));
  FltBackwardArgs args;
  args.kernel = &kernel.kernel;
  args.rows = RowsOf(call, shape);
  args.type = shape.type;
  args.q = View<TensorIn>(*call.q);
  args.k = View<TensorIn>(*call.k);
  args.v = View<TensorIn>(*call.v);
  args.out = View<TensorIn>(*call.out);
  args.normalizers = FloatsOf(call.normalizers);
  args.out_gradient = View<TensorIn>(*gradients.out_gradient);
  if (gradients.q_gradient != nullptr) {
    MNEMO_RETURN_IF_ERROR(check("q_gradient", gradients.q_gradient, sizes.dim));
    MNEMO_RETURN_IF_ERROR(check("k_gradient", gradients.k_gradient, sizes.dim));
    MNEMO_RETURN_IF_ERROR(check("v_gradient", gradients.v_gradient, sizes.value_dim));
    args.q_gradient = View<TensorOut>(*gradients.q_gradient);
    args.k_gradient = View<TensorOut>(*gradients.k_gradient);
    args.v_gradient = View<TensorOut>(*gradients.v_gradient);
  }
  args.projection_gradient = gradients.projection_gradient;
  const size_t waves = sizes.heads * sizes.waves;
  std::vector<float> frequencies(waves * sizes.positions), real(waves), imaginary(waves),
      constant(sizes.waves == 0 ? 0 : sizes.heads);
  const bool learned = gradients.parameter_gradient != nullptr && waves > 0;
  if (learned) {
    args.frequency_gradient = frequencies.data();
    args.real_gradient = real.data();
    args.imaginary_gradient = imaginary.data();
    args.constant_gradient = constant.data();
  }
  MNEMO_RETURN_IF_ERROR(AllBackends().With(shape.device, call.threads, [&](Backend& backend) {
    return backend.FltAttentionBackward(args);
  }));
  if (!learned) return absl::OkStatus();
  MNEMO_ASSIGN_OR_RETURN(const std::vector<float> parameters,
                         RpeGradient(kernel.spec, {frequencies, real, imaginary, constant}));
  std::ranges::copy(parameters, gradients.parameter_gradient);
  return absl::OkStatus();
}

absl::Status Create(const MnemosyneFltConfig& config, std::span<const float> base,
                    std::span<const float> parameters, std::span<const float> projection,
                    MnemosyneFltKernel** kernel) {
  auto made = std::make_unique<MnemosyneFltKernel>();
  MNEMO_ASSIGN_OR_RETURN(made->spec, SpecOf(config));
  made->spec.base.assign(base.begin(), base.end());
  made->spec.parameters.assign(parameters.begin(), parameters.end());
  MNEMO_ASSIGN_OR_RETURN(FltWaves waves, MakeWaves(made->spec));
  MNEMO_ASSIGN_OR_RETURN(
      made->kernel, MakeFltKernel(KernelConfig(config, made->spec), std::move(waves), projection));
  *kernel = made.release();
  return absl::OkStatus();
}

absl::Status Sizes(const MnemosyneFltConfig& config, MnemosyneFltSizes& result) {
  MNEMO_ASSIGN_OR_RETURN(const RpeSpec spec, SpecOf(config));
  const FltConfig kernel = KernelConfig(config, spec);
  result.parameters = RpeParameterCount(spec);
  result.waves = RpeWaveCount(spec);
  MNEMO_ASSIGN_OR_RETURN(const FltProjectionShape shape, FltProjectionOf(kernel, result.waves));
  result.projection_rows = shape.rows;
  result.projection_inputs = shape.inputs;
  result.features = kernel.features;
  FltSizes sizes;
  sizes.value_dim = config.value_dim;
  sizes.positions = result.waves == 0 ? 0 : config.positions;
  sizes.waves = result.waves;
  sizes.form = kernel.form;
  sizes.map.features = kernel.features;
  result.state = FltStateCount(sizes);
  return absl::OkStatus();
}

}  // namespace
}  // namespace mnemosyne::kernels

using mnemosyne::InvalidArgument;
using mnemosyne::kernels::Answer;

const char* mnemosyne_flt_error(void) { return mnemosyne::kernels::last_error.c_str(); }

int mnemosyne_flt_sizes(const MnemosyneFltConfig* config, MnemosyneFltSizes* sizes) {
  return Answer(mnemosyne::kernels::Sizes(*config, *sizes));
}

int mnemosyne_flt_draw_projection(const MnemosyneFltConfig* config, int chi, uint64_t seed,
                                  float* projection) {
  MnemosyneFltSizes sizes;
  if (const int error = mnemosyne_flt_sizes(config, &sizes); error != 0) return error;
  using mnemosyne::kernels::RowNorms;
  const auto drawn =
      mnemosyne::kernels::DrawProjection(sizes.projection_rows, sizes.projection_inputs,
                                         chi != 0 ? RowNorms::kChi : RowNorms::kRoot, seed);
  std::ranges::copy(drawn, projection);
  return 0;
}

int mnemosyne_flt_draw_frequencies(size_t waves, size_t positions, uint64_t seed, float* base) {
  std::ranges::copy(mnemosyne::kernels::DrawBaseFrequencies(waves, positions, seed), base);
  return 0;
}

int mnemosyne_flt_create(const MnemosyneFltConfig* config, const float* base, size_t base_count,
                         const float* parameters, size_t parameter_count, const float* projection,
                         size_t projection_count, MnemosyneFltKernel** kernel) {
  return Answer(mnemosyne::kernels::Create(*config, {base, base_count},
                                           {parameters, parameter_count},
                                           {projection, projection_count}, kernel));
}

void mnemosyne_flt_free(MnemosyneFltKernel* kernel) { delete kernel; }

int mnemosyne_flt_init_state(const MnemosyneFltKernel* kernel, size_t count, float* state) {
  mnemosyne::kernels::InitFltState(kernel->kernel.sizes, count, state);
  return 0;
}

int mnemosyne_flt_forward(const MnemosyneFltKernel* kernel, MnemosyneFltCall* call) {
  return Answer(mnemosyne::kernels::Forward(kernel->kernel, *call));
}

int mnemosyne_flt_backward(const MnemosyneFltKernel* kernel, const MnemosyneFltCall* call,
                           const MnemosyneFltGradients* gradients) {
  return Answer(mnemosyne::kernels::Backward(*kernel, *call, *gradients));
}
