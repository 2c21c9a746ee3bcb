// What EmulatedFlt is made of: each function runs all parts of a call by one kind of program, and
// is in a file of its own, because each has many sizes to compile.
#pragma once

#include "kernels/cuda/flt_back_tables.h"
#include "kernels/cuda/flt_tables.h"
#include "tests/kernels/cuda/flt_emulation.h"

namespace mnemosyne::kernels::cuda::emulated {

// False, and nothing is done, where the program does not take calls of these sizes.
bool AddKeysByTeams(const FltCall& call, FltPartCounts& parts);
bool AnswerByTeams(const FltCall& call, FltPartCounts& parts);
bool AddKeysQuickly(const FltCall& call, FltPartCounts& parts);
bool AnswerQuickly(const FltCall& call, FltPartCounts& parts);
bool AddKeysInGroups(const FltCall& call, FltPartCounts& parts);
bool AnswerInGroups(const FltCall& call, FltPartCounts& parts);

// Those for all sizes.
void AddKeysByBlocks(const FltCall& call);
void AnswerByBlocks(const FltCall& call);

// The quick program's numbers of the projection, and its backward pass.
void PrepareQuickly(const FltCall& call);
void AddQueriesQuickly(const FltBackCall& call, FltPartCounts& parts);
void DifferentiateQueriesQuickly(const FltBackCall& call, FltPartCounts& parts);
void DifferentiateKeysQuickly(const FltBackCall& call, FltPartCounts& parts);

}  // namespace mnemosyne::kernels::cuda::emulated
