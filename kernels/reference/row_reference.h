// The ops over rows as plain loops in double: the specification that tests hold the backends
// against. Results are rounded to float32 when they are stored, and only then.
//
// Arguments are on the host, and assumed to be good.
#pragma once

#include "kernels/row_ops.h"

namespace mnemosyne::kernels::reference {

void DenseLayer(const DenseLayerArgs& args);
void FeatureMap(const FeatureMapArgs& args);
void BidirectionalAttention(const BidirectionalAttentionArgs& args);
void AdditiveMemory(const AdditiveMemoryArgs& args);
void DeltaMemory(const DeltaMemoryArgs& args);

}  // namespace mnemosyne::kernels::reference
