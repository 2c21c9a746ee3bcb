// The flagship's ops as plain loops in double: the specification that tests hold the backends
// against, itself held to metatrain's golden vectors. Results are rounded to float32 when they are
// stored, and only then.
//
// Arguments are on the host, and assumed to be good.
#pragma once

#include "kernels/mnemosyne_step.h"

namespace mnemosyne::kernels::reference {

void MnemosyneContext(const MnemosyneContextArgs& args);
void MnemosyneStep(const MnemosyneStepArgs& args);

}  // namespace mnemosyne::kernels::reference
