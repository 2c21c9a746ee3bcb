#include "kernels/block.h"

#include <algorithm>

namespace mnemosyne::kernels {

void CutIntoBlocks(std::span<const Segment> segments, size_t size, std::vector<Block>& blocks) {
  blocks.clear();
  for (size_t i = 0; i < segments.size(); ++i) {
    for (size_t start = 0; start < segments[i].count; start += size) {
      blocks.push_back({i, segments[i].offset + start, std::min(size, segments[i].count - start)});
    }
  }
}

void SumBlocks(std::span<const Block> blocks, std::span<const double> partial,
               std::span<double> sums) {
  std::fill(sums.begin(), sums.end(), 0.0);
  for (size_t i = 0; i < blocks.size(); ++i) sums[blocks[i].segment] += partial[i];
}

}  // namespace mnemosyne::kernels
