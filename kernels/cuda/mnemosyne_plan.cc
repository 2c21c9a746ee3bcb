#include "kernels/cuda/mnemosyne_plan.h"

#include <algorithm>
#include <cstring>

namespace mnemosyne::kernels::cuda {
namespace {

constexpr size_t kRows = 64;  // Rows that a sum over all parameters makes one of.

MnemosyneArrays ArraysOf(const MnemosynePart& part, size_t first_tensor) {
  const MnemosyneMemory& memory = part.memory;
  return {.values = part.values,
          .fast = memory.fast,
          .square = memory.square,
          .slow = memory.slow,
          .fast_half = memory.fast_half,
          .square_half = memory.square_half,
          .slow_half = memory.slow_half,
          .inverse_root_scales = memory.inverse_root_scales,
          .tokens = memory.tokens,
          .content = memory.content,
          .mass = memory.mass,
          .gains = memory.gains,
          .choices = memory.choices,
          .chunks = memory.chunks,
          .positions = memory.positions,
          .context_queries = memory.context_queries,
          .context_contents = memory.context_contents,
          .tensor_count = memory.tensors.size(),
          .first_tensor = first_tensor};
}
static_assert(sizeof(MnemosyneArrays) == 19 * sizeof(void*), "It has no gaps to compare.");

bool IsSame(const MnemosyneTensor& a, const MnemosyneTensor& b) {
  return a.first_chunk == b.first_chunk && a.chunk_count == b.chunk_count && a.count == b.count &&
         a.prior_step == b.prior_step && a.decays == b.decays;
}

}  // namespace

bool MnemosynePlan::AreOf(const std::span<const MnemosynePart>& parts, size_t size) const {
  if (size_ != size || arrays_.size() != parts.size()) return false;
  size_t tensor = 0, taking = 0;
  for (size_t s = 0; s < parts.size(); ++s) {
    const MnemosynePart& part = parts[s];
    const MnemosyneArrays arrays = ArraysOf(part, tensor);
    if (std::memcmp(&arrays, &arrays_[s], sizeof(arrays)) != 0 ||
        parameter_counts_[s] != part.parameters.size()) {
      return false;
    }
    const auto known = std::span(tensors_).subspan(tensor, part.memory.tensors.size());
    const auto taking_part = std::span(parameters_).subspan(taking, part.parameters.size());
    if (!std::ranges::equal(part.memory.tensors, known, IsSame) ||
        !std::ranges::equal(part.parameters, taking_part)) {
      return false;
    }
    tensor += part.memory.tensors.size();
    taking += part.parameters.size();
  }
  return true;
}

absl::Status MnemosynePlan::Make(Backend& backend, const std::span<const MnemosynePart>& parts,
                                 size_t size) {
  graph_.Forget();
  size_ = size;
  taking_count_ = 0;
  arrays_.clear();
  tensors_.clear();
  parameters_.clear();
  parameter_counts_.clear();
  tiles_.clear();
  taking_tiles_.clear();
  first_tiles_.clear();
  for (const MnemosynePart& part : parts) AddState(part);
  first_tiles_.push_back(tiles_.size());
  chunks_.clear();
  for (size_t tile = 0; tile < taking_tiles_.size(); ++tile) {
    for (size_t c = 0; c < taking_tiles_[tile].count; ++c) {
      chunks_.push_back(static_cast<uint32_t>(tile * kTileChunks + c));
    }
  }
  AddSums();

  staging_.Clear();
  arrays_at_ = staging_.Add(arrays_);
  tensors_at_ = staging_.Add(tensors_);
  tiles_at_ = staging_.Add(tiles_);
  taking_tiles_at_ = staging_.Add(taking_tiles_);
  chunks_at_ = staging_.Add(chunks_);
  sums_at_ = staging_.Add(sums_);
  return staging_.Upload(backend);
}

void MnemosynePlan::AddState(const MnemosynePart& part) {
  const auto state = static_cast<uint32_t>(arrays_.size());
  arrays_.push_back(ArraysOf(part, tensors_.size()));
  const std::span<const MnemosyneTensor> tensors = part.memory.tensors;
  for (size_t t = 0; t < tensors.size(); ++t) {
    first_tiles_.push_back(tiles_.size());
    AddTiles(tensors[t], {0, 0, static_cast<uint32_t>(t), 0, state}, tiles_);
  }
  for (const size_t t : part.parameters) {
    AddTiles(tensors[t],
             {0, 0, static_cast<uint32_t>(t), static_cast<uint32_t>(taking_count_++), state},
             taking_tiles_);
  }
  tensors_.insert(tensors_.end(), tensors.begin(), tensors.end());
  parameters_.insert(parameters_.end(), part.parameters.begin(), part.parameters.end());
  parameter_counts_.push_back(part.parameters.size());
}

void MnemosynePlan::AddTiles(const MnemosyneTensor& tensor, const ChunkTile& of,
                             std::vector<ChunkTile>& tiles) {
  for (size_t first = 0; first < tensor.chunk_count; first += kTileChunks) {
    ChunkTile tile = of;
    tile.first_chunk = static_cast<uint32_t>(tensor.first_chunk + first);
    tile.count = static_cast<uint32_t>(std::min(kTileChunks, tensor.chunk_count - first));
    tiles.push_back(tile);
  }
}

// Each parameter's tiles are one sum; those of a whole state are added up kRows at a time.
void MnemosynePlan::AddSums() {
  // Rows whose sum a state's contents of all parameters are.
  struct Rows {
    size_t first, count, stride;
    float* to;
  };
  sums_.clear();
  level_counts_.clear();
  row_count_ = 2 * tiles_.size();
  std::vector<Rows> states;
  for (const MnemosyneArrays& arrays : arrays_) {
    for (size_t t = 0; t < arrays.tensor_count; ++t) {
      const size_t first = first_tiles_[arrays.first_tensor + t];
      const size_t end = first_tiles_[arrays.first_tensor + t + 1];
      sums_.push_back({.first = static_cast<uint32_t>(2 * first),
                       .count = static_cast<uint32_t>(end - first),
                       .stride = 2,
                       .to_row = 0,
                       .to = arrays.context_contents + t * size_});
    }
    const size_t first = first_tiles_[arrays.first_tensor];
    const size_t end = first_tiles_[arrays.first_tensor + arrays.tensor_count];
    states.push_back(
        {2 * first + 1, end - first, 2, arrays.context_contents + arrays.tensor_count * size_});
  }
  for (size_t counted = 0; counted < sums_.size() || !states.empty(); counted = sums_.size()) {
    std::vector<Rows> longer;
    for (const Rows& rows : states) {
      const bool last = rows.count <= kRows;
      const size_t next = row_count_;
      for (size_t start = 0; start < rows.count; start += kRows) {
        sums_.push_back({.first = static_cast<uint32_t>(rows.first + start * rows.stride),
                         .count = static_cast<uint32_t>(std::min(kRows, rows.count - start)),
                         .stride = static_cast<uint32_t>(rows.stride),
                         .to_row = static_cast<uint32_t>(row_count_),
                         .to = last ? rows.to : nullptr});
        if (!last) ++row_count_;
      }
      if (!last) longer.push_back({next, row_count_ - next, 1, rows.to});
    }
    level_counts_.push_back(static_cast<uint32_t>(sums_.size() - counted));
    states = std::move(longer);
  }
}

MnemosyneStates MnemosynePlan::states() const {
  return {arrays_[0], arrays_.size() == 1 ? nullptr : staging_.At<MnemosyneArrays>(arrays_at_)};
}

MnemosyneContextTables MnemosynePlan::context() const {
  return {.tiles = staging_.At<ChunkTile>(tiles_at_),
          .tensors = staging_.At<MnemosyneTensor>(tensors_at_),
          .sums = staging_.At<RowSum>(sums_at_),
          .tile_count = tiles_.size(),
          .tensor_count = tensors_.size()};
}

MnemosyneStepTables MnemosynePlan::step() const {
  return {.tiles = staging_.At<ChunkTile>(taking_tiles_at_),
          .chunks = staging_.At<uint32_t>(chunks_at_),
          .tensors = staging_.At<MnemosyneTensor>(tensors_at_),
          .steps = nullptr,
          .mean_squares = nullptr,
          .keys = nullptr,
          .tile_count = taking_tiles_.size(),
          .chunk_count = chunks_.size()};
}

}  // namespace mnemosyne::kernels::cuda
