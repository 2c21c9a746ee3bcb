// The checks of each op's arguments, the same for all backends. InvalidArgument says what is wrong.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/coordinate_step.h"
#include "kernels/gradient_statistics.h"
#include "kernels/lstm_step.h"
#include "kernels/mnemosyne_step.h"
#include "kernels/optimizer_steps.h"
#include "kernels/row_ops.h"

namespace mnemosyne::kernels {

// Segments must have elements, ascend and not overlap; `values` must be there if they are.
absl::Status CheckSegments(std::span<const Segment> segments, const float* values);

absl::Status Check(const GradientStatisticsArgs& args);
absl::Status Check(const SgdStepArgs& args);
absl::Status Check(const AdamStepArgs& args);
absl::Status Check(const LionStepArgs& args);
absl::Status Check(const LstmStepArgs& args);
absl::Status Check(const CoordinateStepArgs& args);
absl::Status Check(const MnemosyneContextArgs& args);
absl::Status Check(const MnemosyneStepArgs& args);
absl::Status Check(const MnemosyneModel& model, const MnemosyneUpdateArgs& args);
absl::Status Check(const DenseLayerArgs& args);
absl::Status Check(const FeatureMapArgs& args);
absl::Status Check(const BidirectionalAttentionArgs& args);
absl::Status Check(const AdditiveMemoryArgs& args);
absl::Status Check(const DeltaMemoryArgs& args);

}  // namespace mnemosyne::kernels
