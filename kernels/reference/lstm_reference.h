// The LSTM step as plain loops in double: the specification that tests hold the backends against.
#pragma once

#include "kernels/lstm_step.h"

namespace mnemosyne::kernels::reference {

// Arguments are on the host, and assumed to be good. State and updates are rounded to float32 when
// they are stored, and only then.
void LstmStep(const LstmStepArgs& args);

}  // namespace mnemosyne::kernels::reference
