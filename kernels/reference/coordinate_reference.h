// The coordinate-wise step as plain loops in double: the specification that tests hold the backends
// against.
#pragma once

#include "kernels/coordinate_step.h"

namespace mnemosyne::kernels::reference {

// Arguments are on the host, and assumed to be good. State and updates are rounded to float32 when
// they are stored, and only then.
void CoordinateStep(const CoordinateStepArgs& args);

}  // namespace mnemosyne::kernels::reference
