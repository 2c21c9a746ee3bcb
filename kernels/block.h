// Segments cut into blocks: the unit in which work is spread over threads and sums are formed. The
// cut depends on the segments alone, so the bits of a sum do not depend on who computed its parts.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/segment.h"

namespace mnemosyne::kernels {

// Writes the blocks of all segments to `blocks`, in order; each has at most `size` elements and
// starts a multiple of `size` after the start of its segment.
void CutIntoBlocks(std::span<const Segment> segments, size_t size, std::vector<Block>& blocks);

// Adds up `partial` [blocks] for each segment, in the order of the blocks: `sums` [segments].
void SumBlocks(std::span<const Block> blocks, std::span<const double> partial,
               std::span<double> sums);

}  // namespace mnemosyne::kernels
