// Every op as plain loops in double: the specification that tests hold the backends against. State
// and updates are rounded to float32 when they are stored, and only then.
//
// Arguments are on the host, and assumed to be good.
#pragma once

#include <span>

#include "kernels/gradient_statistics.h"
#include "kernels/optimizer_steps.h"

namespace mnemosyne::kernels::reference {

void MeasureGradients(const GradientStatisticsArgs& args);
void ZeroNonFinite(std::span<const Segment> segments, float* values);
void SgdStep(const SgdStepArgs& args);
void AdamStep(const AdamStepArgs& args);
void LionStep(const LionStepArgs& args);

}  // namespace mnemosyne::kernels::reference
