#include "kernels/cuda/flt_runner.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/cuda/flt_quick_prepare.h"
#include "kernels/cuda/flt_scratch.h"

namespace mnemosyne::kernels::cuda {
namespace {

FltType TypeOf(DataType type) {
  if (type == DataType::kFloat32) return FltType::kFloat32;
  return type == DataType::kBFloat16 ? FltType::kBFloat16 : FltType::kFloat16;
}

FltTensor TensorOf(const TensorIn& t) {
  return {const_cast<void*>(t.data), t.batch_stride, t.head_stride, t.row_stride};
}
FltTensor TensorOf(const TensorOut& t) {
  return {t.data, t.batch_stride, t.head_stride, t.row_stride};
}

FltArrays ArraysOf(const FltAttentionArgs& args) {
  return {.q = TensorOf(args.q),
          .k = TensorOf(args.k),
          .v = TensorOf(args.v),
          .out = TensorOf(args.out),
          .mask = args.rows.mask,
          .positions = args.rows.positions,
          .state = args.state,
          .normalizers = args.normalizers,
          .length = args.rows.length,
          .type = TypeOf(args.type),
          .causal = args.rows.causal,
          .positions_per_batch = args.rows.positions_per_batch};
}

// Coordinates of positions that a call reads.
size_t PositionCount(const FltAttentionArgs& args) {
  const FltSizes& sizes = args.kernel->sizes;
  if (sizes.waves == 0) return 0;
  return (args.rows.positions_per_batch ? args.rows.batch : 1) * args.rows.length * sizes.positions;
}

absl::Status FaultError(const FltCounts& counts, size_t batch, size_t head) {
  const auto not_finite = [&](std::string_view what, uint32_t count) {
    return InvalidArgument(
        "not finite: {} has {} numbers that are NaN or infinite, in batch entry {}, head {}; mask "
        "out padding, or mend what made them",
        what, count, batch, head);
  };
  if (counts.queries > 0) return not_finite("q", counts.queries);
  if (counts.keys > 0) return not_finite("k", counts.keys);
  if (counts.values > 0) return not_finite("v", counts.values);
  if (counts.gradients > 0) return not_finite("out_gradient", counts.gradients);
  if (counts.states > 0) {
    return InvalidArgument(
        "not finite: the running state of batch entry {}, head {} has numbers that are NaN or "
        "infinite; start from an empty one",
        batch, head);
  }
  if (counts.outputs > 0) {
    return InvalidArgument(
        "overflow: {} numbers of the result, in batch entry {}, head {}, are beyond float32; scale "
        "q, k and v down",
        counts.outputs, batch, head);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status FltRunner::KeepWeights(const FltKernel& kernel) {
  if (kernel.id != 0 && kernel.id == kept_kernel_) return absl::OkStatus();
  kept_kernel_ = 0;
  const std::vector<float>* const arrays[] = {&kernel.weights,     &kernel.bias,
                                              &kernel.frequencies, &kernel.query_a,
                                              &kernel.query_b,     &kernel.key_a,
                                              &kernel.key_b,       &kernel.constants,
                                              &kernel.floors,      &kernel.transposed_weights};
  const float** const places[] = {&weights_at_.weights,     &weights_at_.bias,
                                  &weights_at_.frequencies, &weights_at_.query_a,
                                  &weights_at_.query_b,     &weights_at_.key_a,
                                  &weights_at_.key_b,       &weights_at_.constants,
                                  &weights_at_.floors,      &weights_at_.transposed};
  constexpr size_t kAlignment = 16;  // Floats.
  const auto padded = [](size_t count) {
    return (count + kAlignment - 1) / kAlignment * kAlignment;
  };
  size_t total = 0;
  for (const auto* array : arrays) total += padded(array->size());
  bool same = kept_weights_.size() == total;
  for (size_t i = 0, place = 0; same && i < std::size(arrays); ++i) {
    same = std::equal(arrays[i]->begin(), arrays[i]->end(), kept_weights_.data() + place);
    place += padded(arrays[i]->size());
  }
  if (!same) {
    kept_weights_.clear();  // They are not there if this fails.
    prepared_for_.reset();
    std::vector<float> gathered;
    gathered.reserve(total);
    for (const auto* array : arrays) {
      gathered.insert(gathered.end(), array->begin(), array->end());
      gathered.resize(padded(gathered.size()));
    }
    const size_t size = total * sizeof(float);
    if (weights_.size() != size) {
      MNEMO_RETURN_IF_ERROR(backend_.Synchronize());
      MNEMO_ASSIGN_OR_RETURN(weights_, backend_.Allocate(size));
    }
    MNEMO_RETURN_IF_ERROR(backend_.Upload(reinterpret_cast<const std::byte*>(gathered.data()),
                                          weights_.data(), size));
    kept_weights_ = std::move(gathered);
  }
  const float* at = weights_.as<const float>();
  for (size_t i = 0; i < std::size(arrays); ++i) {
    *places[i] = arrays[i]->empty() ? nullptr : at;
    at += padded(arrays[i]->size());
  }
  weights_at_.projection_sets = static_cast<uint32_t>(kernel.projection_sets);
  weights_at_.transposed_stride =
      static_cast<uint32_t>((FltInputCount(kernel.sizes) + 15) / 16 * 16);
  weights_at_.root_scale = kernel.root_scale;
  kept_kernel_ = kernel.id;
  return absl::OkStatus();
}

absl::Status FltRunner::KeepPlan(const FltAttentionArgs& args, size_t floats, size_t at_once,
                                 KeptPlan& plan) {
  const FltRows& rows = args.rows;
  const KeptPlan::Rows now = {floats,
                              at_once,
                              FltShape::Of(args.kernel->sizes).SumCount(),
                              args.kernel->sizes.heads,
                              rows.batch,
                              rows.length,
                              {rows.sequence_starts.begin(), rows.sequence_starts.end()}};
  if (plan.planned == now) return absl::OkStatus();
  plan.planned.reset();
  std::vector<FltLaunchPlan> launches = PlanFlt(args.kernel->sizes, args.rows, floats, at_once);
  plan.tables.Clear();
  plan.parts_at.clear();
  plan.units_at.clear();
  for (const FltLaunchPlan& launch : launches) {
    plan.parts_at.push_back(plan.tables.Add(launch.parts));
    plan.units_at.push_back(plan.tables.Add(launch.units));
  }
  MNEMO_RETURN_IF_ERROR(plan.tables.Upload(backend_));
  plan.launches = std::move(launches);
  plan.planned = now;
  return absl::OkStatus();
}

void FltRunner::Point(const KeptPlan& plan, size_t i, FltCall& call) {
  call.parts = plan.tables.At<FltPart>(plan.parts_at[i]);
  call.units = plan.tables.At<FltUnit>(plan.units_at[i]);
  call.part_count = static_cast<uint32_t>(plan.launches[i].parts.size());
  call.unit_count = static_cast<uint32_t>(plan.launches[i].units.size());
  call.part_rows = 0;
  for (const FltPart& part : plan.launches[i].parts) {
    call.part_rows = std::max(call.part_rows, part.count);
  }
}

FltCall FltRunner::CallOf(const FltAttentionArgs& args) const {
  FltCall call = {};
  call.shape = FltShape::Of(args.kernel->sizes);
  call.tile_rows = FltScratchLayout::TileRows(call.shape);
  call.weights = weights_at_;
  call.arrays = ArraysOf(args);
  return call;
}

absl::Status FltRunner::KeepPrepared(FltCall& call) {
  size_t words = 0;
  WithFltQuick(
      call, [&](auto sizes) { words = FltPreparation<decltype(sizes)>::Words(call.shape.heads); });
  const size_t size = words * sizeof(uint32_t);
  if (prepared_.size() < size) {
    MNEMO_RETURN_IF_ERROR(backend_.Synchronize());
    prepared_for_.reset();
    MNEMO_ASSIGN_OR_RETURN(prepared_, backend_.Allocate(size));
  }
  call.prepared = prepared_.as<uint32_t>();
  const std::pair now = {call.arrays.type, call.shape.features};
  if (prepared_for_ == now) return absl::OkStatus();
  prepared_for_.reset();
  MNEMO_RETURN_IF_ERROR(programs_.Prepare(call));
  prepared_for_ = now;
  return absl::OkStatus();
}

absl::Status FltRunner::Place(size_t i, FltCall& call) {
  const FltLaunchPlan& plan = forward_plan_.launches[i];
  const size_t each = call.shape.SumCount();
  Places places;
  const size_t sums_at = places.Take<float>(plan.parts.size() * each);
  const size_t start_count = call.arrays.causal ? plan.parts.size() : plan.units.size();
  const size_t starts_at = places.Take<float>(start_count * each);
  MNEMO_ASSIGN_OR_RETURN(std::byte* const space, space_.Get(backend_, places.end()));
  Point(forward_plan_, i, call);
  call.sums = reinterpret_cast<float*>(space + sums_at);
  call.starts = reinterpret_cast<float*>(space + starts_at);
  return absl::OkStatus();
}

absl::StatusOr<bool> FltRunner::PrepareQuickly(FltCall& call) {
  call.quick = true;
  if (!WithFltQuick(call, [](auto) {})) return false;
  MNEMO_ASSIGN_OR_RETURN(call.flag, programs_.Flag());
  if (call.flag == nullptr) return false;
  MNEMO_RETURN_IF_ERROR(KeepPrepared(call));
  return true;
}

absl::StatusOr<bool> FltRunner::LaunchQuickly(FltCall call) {
  // A state is left alone if numbers are wrong, and all launches have to be known for that.
  const bool has_state = call.arrays.state != nullptr;
  if (has_state && forward_plan_.launches.size() > 1) return false;
  MNEMO_ASSIGN_OR_RETURN(const bool takes, PrepareQuickly(call));
  if (!takes) return false;
  for (size_t i = 0; i < forward_plan_.launches.size(); ++i) {
    MNEMO_RETURN_IF_ERROR(Place(i, call));
    MNEMO_RETURN_IF_ERROR(programs_.AddKeys(call));
    MNEMO_RETURN_IF_ERROR(programs_.Merge(call));
    MNEMO_RETURN_IF_ERROR(programs_.Answer(call));
  }
  MNEMO_ASSIGN_OR_RETURN(const bool raised, programs_.Wait());
  if (!raised && has_state && !forward_plan_.launches.empty()) {
    MNEMO_RETURN_IF_ERROR(programs_.WriteState(call));
    MNEMO_RETURN_IF_ERROR(backend_.Synchronize());
  }
  return !raised;
}

absl::Status FltRunner::ClearCounts(const FltAttentionArgs& args, FltCall& call) {
  const size_t heads = args.rows.batch * args.kernel->sizes.heads;
  const size_t size = sizeof(uint64_t) + heads * sizeof(FltCounts);
  MNEMO_ASSIGN_OR_RETURN(std::byte* const counts, counts_.Get(backend_, size));
  call.counts = reinterpret_cast<FltCounts*>(counts + sizeof(uint64_t));
  MNEMO_RETURN_IF_ERROR(programs_.Clear(counts, size));
  const size_t positions = PositionCount(args);
  if (positions == 0) return absl::OkStatus();
  return programs_.CheckPositions(args.rows.positions, positions,
                                  reinterpret_cast<uint64_t*>(counts));
}

absl::Status FltRunner::LaunchCarefully(const FltAttentionArgs& args, FltCall call) {
  MNEMO_RETURN_IF_ERROR(ClearCounts(args, call));
  for (size_t i = 0; i < forward_plan_.launches.size(); ++i) {
    MNEMO_RETURN_IF_ERROR(Place(i, call));
    MNEMO_RETURN_IF_ERROR(programs_.AddKeys(call));
    MNEMO_RETURN_IF_ERROR(programs_.Merge(call));
    MNEMO_RETURN_IF_ERROR(programs_.Answer(call));
    // A state is left alone if numbers are wrong.
    if (args.state != nullptr || i + 1 == forward_plan_.launches.size()) {
      MNEMO_RETURN_IF_ERROR(ReadCounts(args));
    }
    if (args.state != nullptr) MNEMO_RETURN_IF_ERROR(programs_.WriteState(call));
  }
  return absl::OkStatus();
}

absl::Status FltRunner::PositionError(const FltAttentionArgs& args, size_t index) {
  float number = 0;
  MNEMO_RETURN_IF_ERROR(
      backend_.Download(reinterpret_cast<const std::byte*>(args.rows.positions + index),
                        reinterpret_cast<std::byte*>(&number), sizeof(number)));
  const size_t width = args.kernel->sizes.positions;
  return InvalidArgument(
      "wrong position: coordinate {} of row {} is {}, expected at most {} in "
      "magnitude; shift or scale the positions",
      index % width, index % (args.rows.length * width) / width, number, kFltPositionLimit);
}

absl::Status FltRunner::ReadCounts(const FltAttentionArgs& args) {
  const size_t heads = args.kernel->sizes.heads, count = args.rows.batch * heads;
  const size_t size = sizeof(uint64_t) + count * sizeof(FltCounts);
  std::vector<std::byte> bytes(size);
  MNEMO_ASSIGN_OR_RETURN(const std::byte* const from, counts_.Get(backend_, size));
  MNEMO_RETURN_IF_ERROR(backend_.Download(from, bytes.data(), size));
  uint64_t first_bad = 0;
  std::memcpy(&first_bad, bytes.data(), sizeof(first_bad));
  found_.resize(count);
  std::memcpy(found_.data(), bytes.data() + sizeof(uint64_t), count * sizeof(FltCounts));
  if (first_bad > 0) return PositionError(args, PositionCount(args) - first_bad);
  for (size_t i = 0; i < count; ++i) {
    MNEMO_RETURN_IF_ERROR(FaultError(found_[i], i / heads, i % heads));
  }
  return absl::OkStatus();
}

absl::Status FltRunner::Attend(const FltAttentionArgs& args) {
  MNEMO_RETURN_IF_ERROR(KeepWeights(*args.kernel));
  found_.clear();
  const FltCall call = CallOf(args);
  // As many blocks of groups run on a multiprocessor as their memory allows.
  const size_t at_once = (args.type == DataType::kFloat32) != args.rows.causal ? 2 : 3;
  MNEMO_RETURN_IF_ERROR(KeepPlan(args, call.shape.SumCount(), at_once, forward_plan_));
  MNEMO_ASSIGN_OR_RETURN(const bool done, LaunchQuickly(call));
  if (!done) MNEMO_RETURN_IF_ERROR(LaunchCarefully(args, call));
  if (args.report == nullptr) return absl::OkStatus();
  *args.report = {};
  for (const FltLaunchPlan& plan : forward_plan_.launches) {
    for (const FltPart& part : plan.parts) args.report->rows += part.count;
  }
  for (const FltCounts& found : found_) args.report->clamped_rows += found.clamped;
  return absl::OkStatus();
}

}  // namespace mnemosyne::kernels::cuda
