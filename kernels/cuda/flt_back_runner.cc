// The backward pass of FltRunner.
#include <cstring>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_quick_layout.h"
#include "kernels/cuda/flt_runner.h"
#include "kernels/cuda/flt_scratch.h"
#include "kernels/flt/flt_gradients.h"

namespace mnemosyne::kernels::cuda {
namespace {

// What the forward pass was told.
FltAttentionArgs ForwardArgs(const FltBackwardArgs& args) {
  FltAttentionArgs forward;
  forward.kernel = args.kernel;
  forward.rows = args.rows;
  forward.type = args.type;
  forward.q = args.q;
  forward.k = args.k;
  forward.v = args.v;
  const TensorIn& out = args.out;
  forward.out = {const_cast<void*>(out.data), out.batch_stride, out.head_stride, out.row_stride};
  forward.normalizers = const_cast<float*>(args.normalizers);
  return forward;
}

template <typename Tensor>
FltTensor TensorOf(const Tensor& t) {
  return {const_cast<void*>(t.data), t.batch_stride, t.head_stride, t.row_stride};
}

bool WantsWaves(const FltBackwardArgs& args) {
  return args.kernel->sizes.waves > 0 &&
         (args.frequency_gradient != nullptr || args.real_gradient != nullptr ||
          args.imaginary_gradient != nullptr || args.constant_gradient != nullptr);
}

// Adds the totals of a head, as the device has them.
void AddTotals(const FltBackCall& call, const double* totals, size_t head, FltGradientSums& sums) {
  const FltShape& shape = call.forward.shape;
  const FltGradientPlaces at(shape, call.of_waves, call.of_projection);
  if (call.of_waves) {
    FltGradientSums::OfHead& own = sums.heads[head];
    const auto copy = [&](size_t from, std::vector<double>& to) {
      std::copy_n(totals + from, to.size(), to.begin());
    };
    copy(at.query_a, own.query_a);
    copy(at.query_b, own.query_b);
    copy(at.key_a, own.key_a);
    copy(at.key_b, own.key_b);
    copy(at.frequencies, own.frequencies);
    own.constant = totals[at.constant];
  }
  if (!call.of_projection) return;
  const size_t first = call.forward.weights.projection_sets > 1 ? head * shape.projection : 0;
  for (size_t p = 0; p < shape.projection; ++p) {
    sums.bias[first + p] += totals[at.bias + p];
    for (size_t i = 0; i < shape.inputs; ++i) {
      sums.weights[(first + p) * sums.width + i] += totals[at.weights + p * shape.inputs + i];
    }
  }
}

}  // namespace

absl::Status FltRunner::Differentiate(const FltBackwardArgs& args) {
  const FltAttentionArgs forward = ForwardArgs(args);
  MNEMO_RETURN_IF_ERROR(KeepWeights(*args.kernel));
  FltBackCall call = {};
  call.forward = CallOf(forward);
  const FltShape& shape = call.forward.shape;
  call.tile_rows = FltBackScratchLayout::TileRows(shape, args.rows.causal);
  call.out_gradient = TensorOf(args.out_gradient);
  call.q_gradient = TensorOf(args.q_gradient);
  call.k_gradient = TensorOf(args.k_gradient);
  call.v_gradient = TensorOf(args.v_gradient);
  call.of_waves = WantsWaves(args);
  call.of_projection = args.projection_gradient != nullptr && shape.projection > 0;
  const size_t gradients = FltGradientPlaces(shape, call.of_waves, call.of_projection).end;
  MNEMO_ASSIGN_OR_RETURN(call.forward.quick, PrepareQuickly(call.forward));
  MNEMO_ASSIGN_OR_RETURN(call.quick, PrepareQuickly(call, args.rows.batch * args.rows.length));
  // Parts that run at a time on a multiprocessor.
  const size_t at_once = call.quick && !args.rows.causal ? 3 : 2;
  MNEMO_RETURN_IF_ERROR(KeepPlan(forward, shape.SumCount() + call.QuerySumCount() + gradients,
                                 at_once, backward_plan_));
  const size_t size = shape.heads * gradients * sizeof(double);
  MNEMO_ASSIGN_OR_RETURN(std::byte* const totals, totals_.Get(backend_, size));
  call.totals = reinterpret_cast<double*>(totals);
  const auto launch = [&]() -> absl::Status {
    MNEMO_RETURN_IF_ERROR(programs_.Clear(totals, size));
    // The quick program raises its flag instead of counting.
    if (!call.quick) MNEMO_RETURN_IF_ERROR(ClearCounts(forward, call.forward));
    for (size_t i = 0; i < backward_plan_.launches.size(); ++i) {
      MNEMO_RETURN_IF_ERROR(LaunchBackward(i, gradients, call));
    }
    return absl::OkStatus();
  };
  MNEMO_RETURN_IF_ERROR(launch());
  if (call.forward.quick) {
    MNEMO_ASSIGN_OR_RETURN(const bool raised, programs_.Wait());
    if (raised) {
      call.forward.quick = call.quick = false;
      MNEMO_RETURN_IF_ERROR(launch());
    }
  }
  if (!call.quick) MNEMO_RETURN_IF_ERROR(ReadCounts(forward));
  std::vector<double> found(shape.heads * gradients);
  MNEMO_RETURN_IF_ERROR(
      backend_.Download(totals, reinterpret_cast<std::byte*>(found.data()), size));
  FltGradientSums sums(*args.kernel);
  for (size_t h = 0; h < shape.heads; ++h) AddTotals(call, found.data() + h * gradients, h, sums);
  WriteGradients(args, sums);
  return absl::OkStatus();
}

absl::StatusOr<bool> FltRunner::PrepareQuickly(FltBackCall& call, size_t rows) {
  if (!call.forward.quick || call.of_projection) return false;
  if (!WithFltQuickBack(call.forward, [](auto) {})) return false;
  const size_t count = rows * call.forward.shape.heads;
  MNEMO_ASSIGN_OR_RETURN(std::byte* const numbers,
                         numbers_.Get(backend_, 2 * count * sizeof(FltRowNumber)));
  call.forward.query_rows = reinterpret_cast<FltRowNumber*>(numbers);
  call.forward.key_rows = call.forward.query_rows + count;
  return true;
}

absl::Status FltRunner::LaunchBackward(size_t i, size_t gradients, FltBackCall call) {
  const FltLaunchPlan& plan = backward_plan_.launches[i];
  const size_t parts = plan.parts.size(),
               starts = call.forward.arrays.causal ? parts : plan.units.size(),
               sums = call.forward.shape.SumCount(), query_sums = call.QuerySumCount();
  Places places;
  const size_t places_of[] = {places.Take<float>(parts * sums), places.Take<float>(starts * sums),
                              places.Take<float>(parts * query_sums),
                              places.Take<float>(starts * query_sums),
                              places.Take<float>(parts * gradients)};
  MNEMO_ASSIGN_OR_RETURN(std::byte* const space, space_.Get(backend_, places.end()));
  float** const pointers[] = {&call.forward.sums, &call.forward.starts, &call.sums, &call.starts,
                              &call.gradients};
  for (size_t k = 0; k < std::size(pointers); ++k) {
    *pointers[k] = reinterpret_cast<float*>(space + places_of[k]);
  }
  Point(backward_plan_, i, call.forward);
  MNEMO_RETURN_IF_ERROR(programs_.Clear(reinterpret_cast<std::byte*>(call.gradients),
                                        parts * gradients * sizeof(float)));
  MNEMO_RETURN_IF_ERROR(programs_.AddKeys(call.forward));
  MNEMO_RETURN_IF_ERROR(programs_.Merge(call.forward));
  if (call.quick) MNEMO_RETURN_IF_ERROR(programs_.AddQueries(call));
  MNEMO_RETURN_IF_ERROR(programs_.DifferentiateQueries(call));
  MNEMO_RETURN_IF_ERROR(programs_.MergeQueries(call));
  MNEMO_RETURN_IF_ERROR(programs_.DifferentiateKeys(call));
  return programs_.AddTotals(call);
}

}  // namespace mnemosyne::kernels::cuda
