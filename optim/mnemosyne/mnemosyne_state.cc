#include "optim/mnemosyne/mnemosyne_state.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "kernels/components/spectrum.h"

namespace mnemosyne::optim {
namespace {

using kernels::MnemosyneSizes;

constexpr size_t kCoordinateArenas = 3;

// More than any device has, and far from where sums of it overflow.
constexpr double kTooManyBytes = 1e18;

size_t ContentCount(const MnemosyneSizes& sizes) {
  return sizes.memory_heads * sizes.memory_map.features * sizes.memory_width;
}

template <typename T>
absl::Status Put(const std::vector<T>& host, const kernels::Buffer& device,
                 kernels::Backend& backend) {
  return backend.Upload(reinterpret_cast<const std::byte*>(host.data()), device.data(),
                        host.size() * sizeof(T));
}

}  // namespace

size_t MnemosyneState::ByteCount(const ParameterLayout& layout, const MnemosyneSizes& sizes) {
  double cells = 0, chunks = 0;
  for (const ParameterLayout::Run& run : layout.runs()) {
    const ChunkCounts counts = CountChunks(sizes, run.count);
    cells += static_cast<double>(counts.cells);
    chunks += static_cast<double>(counts.chunks);
  }
  const auto tensors = static_cast<double>(layout.runs().size());
  const bool half = layout.precision() == StatePrecision::kHalf;
  const double arenas = static_cast<double>(kCoordinateArenas) *
                        static_cast<double>(layout.arena_size()) * (half ? 0.5 : 1);
  const double floats =
      arenas + (half ? chunks : 0) + cells * static_cast<double>(1 + 2 * sizes.positional) +
      chunks * static_cast<double>(sizes.token_width + ContentCount(sizes) +
                                   kernels::MemoryMassCount(sizes) + kernels::kChoiceCount +
                                   2 * sizes.context_map.features) +
      (tensors + 1) * static_cast<double>(ContextContentCount(sizes));
  const double bytes = 4 * floats + chunks * sizeof(kernels::MnemosyneChunk) +
                       tensors * sizeof(ScaleRecord) + sizeof(SessionRecord);
  return static_cast<size_t>(std::min(bytes, kTooManyBytes));
}

double MnemosyneState::BytesPerElement(const MnemosyneSizes& sizes) {
  const size_t elements = sizes.chunk_cells * sizes.cell_size;
  const size_t floats = kCoordinateArenas * elements + sizes.chunk_cells + sizes.token_width +
                        ContentCount(sizes) + kernels::MemoryMassCount(sizes) +
                        kernels::kChoiceCount;
  return static_cast<double>(floats * sizeof(float)) / static_cast<double>(elements);
}

absl::StatusOr<std::unique_ptr<MnemosyneState>> MnemosyneState::Create(
    const ParameterLayout& layout, const MnemosyneWeights& weights, kernels::Backend& backend) {
  const bool half = layout.precision() == StatePrecision::kHalf;
  // The arenas come first: where there is room for them, there is for the tables of chunks.
  std::vector<kernels::Buffer> arenas(kCoordinateArenas);
  for (kernels::Buffer& arena : arenas) {
    const size_t size = half ? sizeof(uint16_t) : sizeof(float);
    MNEMO_ASSIGN_OR_RETURN(arena, backend.Allocate(layout.arena_size() * size));
  }
  std::unique_ptr<MnemosyneState> state(new MnemosyneState(layout, weights));
  const MnemosyneSizes& sizes = weights.model.sizes;
  const size_t chunks = state->chunks_.chunks().size(), cells = state->chunks_.cell_count();
  const size_t tensors = layout.runs().size();
  kernels::MnemosyneMemory& memory = state->memory_;
  if (half) {
    memory.fast_half = arenas[0].as<uint16_t>();
    memory.square_half = arenas[1].as<uint16_t>();
    memory.slow_half = arenas[2].as<uint16_t>();
  } else {
    memory.fast = arenas[0].as<float>();
    memory.square = arenas[1].as<float>();
    memory.slow = arenas[2].as<float>();
  }
  for (kernels::Buffer& arena : arenas) state->buffers_.push_back(std::move(arena));
  const std::pair<float**, size_t> arrays[] = {
      {&memory.tokens, chunks * sizes.token_width},
      {&memory.content, chunks * ContentCount(sizes)},
      {&memory.mass, chunks * kernels::MemoryMassCount(sizes)},
      {&memory.gains, cells},
      {&memory.context_queries, 2 * chunks * sizes.context_map.features},
      {&memory.context_contents, (tensors + 1) * ContextContentCount(sizes)},
      {&memory.inverse_root_scales, half ? chunks : 0},
  };
  for (const auto& [array, count] : arrays) {
    MNEMO_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend.Allocate(count * sizeof(float)));
    *array = buffer.as<float>();
    state->buffers_.push_back(std::move(buffer));
  }
  MNEMO_ASSIGN_OR_RETURN(kernels::Buffer choices,
                         backend.Allocate(chunks * sizeof(kernels::MnemosyneChoice)));
  memory.choices = choices.as<kernels::MnemosyneChoice>();
  state->buffers_.push_back(std::move(choices));
  MNEMO_ASSIGN_OR_RETURN(state->session_, backend.AllocateHost(sizeof(SessionRecord)));
  MNEMO_ASSIGN_OR_RETURN(state->scales_, backend.AllocateHost(tensors * sizeof(ScaleRecord)));
  MNEMO_RETURN_IF_ERROR(state->PutConstants(weights, backend));
  return state;
}

absl::Status MnemosyneState::PutConstants(const MnemosyneWeights& weights,
                                          kernels::Backend& backend) {
  memory_.tensors = chunks_.tensors();
  memory_.chunk_count = chunks_.chunks().size();
  const std::span chunk_bytes = std::as_bytes(chunks_.chunks());
  MNEMO_ASSIGN_OR_RETURN(kernels::Buffer chunks, backend.Allocate(chunk_bytes.size()));
  MNEMO_RETURN_IF_ERROR(backend.Upload(chunk_bytes.data(), chunks.data(), chunk_bytes.size()));
  memory_.chunks = chunks.as<const kernels::MnemosyneChunk>();
  buffers_.push_back(std::move(chunks));

  const kernels::PositionalFeatures features =
      kernels::MakePositionalFeatures(weights.positions, chunks_.CellPositions());
  const size_t width = sizes_.positional;
  std::vector<float> both;
  both.reserve(2 * features.query.size());
  for (const kernels::MnemosyneChunk& chunk : chunks_.chunks()) {
    for (const std::vector<float>* side : {&features.query, &features.key}) {
      for (size_t i = 0; i < width; ++i) {
        for (size_t cell = chunk.first_cell; cell < chunk.first_cell + chunk.cells; ++cell) {
          both.push_back((*side)[cell * width + i]);
        }
      }
    }
  }
  MNEMO_ASSIGN_OR_RETURN(kernels::Buffer positions, backend.Allocate(both.size() * sizeof(float)));
  MNEMO_RETURN_IF_ERROR(Put(both, positions, backend));
  memory_.positions = positions.as<const float>();
  buffers_.push_back(std::move(positions));
  return absl::OkStatus();
}

std::vector<StateTensor> MnemosyneState::Tensors() const {
  std::vector<StateTensor> tensors;
  const auto add = [&](std::string_view slot, size_t parameter, std::vector<int64_t> shape,
                       const void* data) {
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    tensors.push_back({slot, parameter, std::move(shape), DataType::kFloat32,
                       static_cast<std::byte*>(const_cast<void*>(data)), count * sizeof(float)});
  };
  const auto add_half = [&](std::string_view slot, size_t parameter, DataType type,
                            uint16_t* data) {
    tensors.push_back({slot, parameter, layout_.parameters()[parameter].shape, type,
                       reinterpret_cast<std::byte*>(data),
                       layout_.runs()[parameter].count * sizeof(uint16_t)});
  };
  const auto heads = static_cast<int64_t>(sizes_.memory_heads);
  const auto features = static_cast<int64_t>(sizes_.memory_map.features);
  const size_t mass_count = kernels::MemoryMassCount(sizes_);
  size_t first_cell = 0;
  for (size_t t = 0; t < layout_.runs().size(); ++t) {
    const std::vector<int64_t>& shape = layout_.parameters()[t].shape;
    const size_t offset = layout_.runs()[t].offset;
    const kernels::MnemosyneTensor& tensor = chunks_.tensors()[t];
    const size_t first = tensor.first_chunk, cells = chunks_.cell_count(t);
    const auto count = static_cast<int64_t>(tensor.chunk_count);
    if (memory_.is_half()) {
      add_half("fast", t, DataType::kBFloat16, memory_.fast_half + offset);
      add_half("square_root", t, DataType::kFloat16, memory_.square_half + offset);
      add_half("slow", t, DataType::kBFloat16, memory_.slow_half + offset);
      add("square_root_factor", t, {count}, memory_.inverse_root_scales + first);
    } else {
      add("fast", t, shape, memory_.fast + offset);
      add("square", t, shape, memory_.square + offset);
      add("slow", t, shape, memory_.slow + offset);
    }
    add("tokens", t, {count, static_cast<int64_t>(sizes_.token_width)},
        memory_.tokens + first * sizes_.token_width);
    add("content", t, {count, heads, features, static_cast<int64_t>(sizes_.memory_width)},
        memory_.content + first * ContentCount(sizes_));
    if (sizes_.write_rule == kernels::MnemosyneWriteRule::kAdditive) {
      add("mass", t, {count, heads, features}, memory_.mass + first * mass_count);
    } else if (sizes_.write_rule == kernels::MnemosyneWriteRule::kRecurrentDelta) {
      add("read", t, {count, heads, static_cast<int64_t>(sizes_.memory_width)},
          memory_.mass + first * mass_count);
    }
    add("choices", t, {count, static_cast<int64_t>(kernels::kChoiceCount)},
        memory_.choices + first);
    add("gains", t, {static_cast<int64_t>(cells)}, memory_.gains + first_cell);
    add("scale", t, {2}, scales_.as<ScaleRecord>() + t);
    first_cell += cells;
  }
  tensors.push_back({"session",
                     0,
                     {static_cast<int64_t>(sizeof(SessionRecord) / sizeof(double))},
                     DataType::kFloat64,
                     session_.data(),
                     sizeof(SessionRecord)});
  return tensors;
}

}  // namespace mnemosyne::optim
