// The flagship's kernels. Level 2 takes a tile of chunks to a block; the step takes a chunk to a
// block, which is a team of warps where the model has the shipped sizes.
#include "kernels/cuda/block_threads.cuh"
#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/mnemosyne_block.h"
#include "kernels/cuda/mnemosyne_context.h"
#include "kernels/cuda/mnemosyne_team.h"

namespace mnemosyne::kernels::cuda {
namespace {

constexpr int kContextThreads = 256;
constexpr int kBlockThreads = 128;  // Of the step for any sizes.
constexpr int kTeamThreads = 32 * TeamSizes::kWarps;
constexpr unsigned kTeams = 3;      // On a multiprocessor.
constexpr int kTensorThreads = 32;  // Of sums over parameters and tiles.

__device__ const MnemosyneArrays& ArraysOf(const MnemosyneStates& states, const ChunkTile& tile) {
  return states.all == nullptr ? states.first : states.all[tile.state];
}

__global__ void __launch_bounds__(kContextThreads)
    Context(const __grid_constant__ MnemosyneModel model,
            const __grid_constant__ MnemosyneStates states, const ChunkTile* __restrict__ tiles,
            size_t contents_size, float* __restrict__ contents, TileSums* __restrict__ sums) {
  extern __shared__ float scratch[];
  const ChunkTile tile = tiles[blockIdx.x];
  ContextTile<BlockThreads>(model, ArraysOf(states, tile), tile, scratch,
                            contents + 2 * blockIdx.x * contents_size, sums + blockIdx.x);
}

// A block takes a sum. `rows` are of `size` floats.
__global__ void SumRows(const RowSum* __restrict__ sums, size_t size, float* rows) {
  const RowSum job = sums[blockIdx.x];
  const float* const from = rows + job.first * size;
  float* const to = job.to != nullptr ? job.to : rows + job.to_row * size;
  const size_t stride = job.stride * size;
  for (size_t i = threadIdx.x; i < size; i += blockDim.x) {
    float sum = 0;
#pragma unroll 8
    for (size_t row = 0; row < job.count; ++row) sum += from[row * stride + i];
    to[i] = sum;
  }
}

// A thread takes a parameter, whose tiles are those that its sum of rows is of.
__global__ void SumTiles(const __grid_constant__ MnemosyneContextTables tables,
                         const __grid_constant__ MnemosyneContextSpace space) {
  const size_t t = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (t >= tables.tensor_count) return;
  const size_t first = tables.sums[t].first / 2, end = first + tables.sums[t].count;
  TensorSums sums = {0, 0};
#pragma unroll 8
  for (size_t tile = first; tile < end; ++tile) {
    sums.mean_square += space.tile_sums[tile].mean_square;
    sums.shrink += space.tile_sums[tile].shrink;
  }
  const MnemosyneTensor& tensor = tables.tensors[t];
  sums.mean_square /= static_cast<double>(tensor.count);
  sums.shrink /= static_cast<double>(tensor.chunk_count);
  if (sums.shrink > kShrinkMax) sums.shrink = kShrinkMax;
  space.tensor_sums[t] = sums;
  space.mean_squares[t] = static_cast<float>(sums.mean_square);
}

__device__ MnemosyneChunkStep ChunkStepOf(const MnemosyneModel& model,
                                          const MnemosyneArrays& arrays,
                                          const MnemosyneStepTables& tables, const ChunkTile& tile,
                                          size_t c) {
  const MnemosyneSizes& sizes = model.sizes;
  const size_t features = sizes.memory_heads * sizes.memory_map.features;
  const size_t contents = ContextContentCount(sizes);
  const MnemosyneChunk& chunk = arrays.chunks[c];
  MnemosyneChunkStep step;
  step.chunk = &chunk;
  step.tensor = tables.tensors + arrays.first_tensor + tile.tensor;
  step.step = tables.steps + tile.taking;
  step.values = arrays.values + chunk.offset;
  step.fast = arrays.fast + chunk.offset;
  step.square = arrays.square + chunk.offset;
  step.slow = arrays.slow + chunk.offset;
  step.token = arrays.tokens + c * sizes.token_width;
  step.content = arrays.content + c * features * sizes.memory_width;
  step.mass = arrays.mass + c * MemoryMassCount(sizes);
  step.gains = arrays.gains + chunk.first_cell;
  step.choice = arrays.choices + c;
  step.positions = arrays.positions + 2 * chunk.first_cell * sizes.positional;
  step.tensor_mean_square = tables.mean_squares[arrays.first_tensor + tile.tensor];
  step.context_query = arrays.context_queries + 2 * c * sizes.context_map.features;
  step.context_contents = arrays.context_contents + tile.tensor * contents;
  step.context_all = arrays.context_contents + arrays.tensor_count * contents;
  return step;
}

// As RoundingOf() in mnemosyne_chunk.h.
__device__ MnemosyneRounding ChunkRoundingOf(const MnemosyneArrays& arrays,
                                             const MnemosyneStepTables& tables,
                                             const ChunkTile& tile, size_t c) {
  const RoundingKeys& keys = tables.keys[tile.taking];
  const size_t offset = arrays.chunks[c].offset;
  const size_t first =
      arrays.chunks[tables.tensors[arrays.first_tensor + tile.tensor].first_chunk].offset;
  MnemosyneRounding rounding;
  rounding.key = keys.first;
  rounding.slow_key = keys.slow;
  rounding.first = static_cast<uint32_t>(offset - first);
  rounding.fast = arrays.fast_half + offset;
  rounding.slow = arrays.slow_half + offset;
  rounding.roots = arrays.square_half + offset;
  rounding.inverse_scale = arrays.inverse_root_scales + c;
  return rounding;
}

// A chunk whose turn it is, with copies of what its step only reads.
struct TeamTurn {
  uint32_t item;  // As tables.chunks has it.
  MnemosyneChunkStep step;
  MnemosyneChoice before;
  MnemosyneChunk chunk;
  MnemosyneTensor tensor;
  MnemosyneTensorStep tensor_step;
  MnemosyneRounding rounding;

  // For one thread: takes chunk `next` of those that take part, if there is one.
  template <bool kRounds>
  __device__ void Take(const MnemosyneModel& model, const MnemosyneStates& states,
                       const MnemosyneStepTables& tables, size_t next) {
    if (next >= tables.chunk_count) return;
    item = tables.chunks[next];
    const ChunkTile tile = tables.tiles[item / kTileChunks];
    const MnemosyneArrays& arrays = ArraysOf(states, tile);
    const size_t c = tile.first_chunk + item % kTileChunks;
    step = ChunkStepOf(model, arrays, tables, tile, c);
    before = *step.choice;
    chunk = *step.chunk;
    tensor = *step.tensor;
    tensor_step = *step.step;
    step.chunk = &chunk;
    step.tensor = &tensor;
    step.step = &tensor_step;
    if (kRounds) {
      rounding = ChunkRoundingOf(arrays, tables, tile, c);
      step.rounding = &rounding;
    }
  }
};

// What a team has in shared memory.
struct alignas(16) TeamShared {
  float weights[(TeamWeights::kCount + 3) / 4 * 4];
  TeamScratch scratch;
  TeamTurn turns[2];  // This one and the next.
};

// Teams take the chunks in turns. `square_sums` and `capped` are [tiles, kTileChunks].
template <template <class> class Memory, bool kReplay>
__global__ void __launch_bounds__(kTeamThreads, kTeams)
    StepTeams(const __grid_constant__ MnemosyneModel model,
              const __grid_constant__ TeamModel team_model,
              const __grid_constant__ MnemosyneStates states,
              const __grid_constant__ MnemosyneStepTables tables, double* __restrict__ square_sums,
              uint32_t* __restrict__ capped) {
  extern __shared__ float4 memory[];
  TeamShared& shared = *reinterpret_cast<TeamShared*>(memory);
  constexpr bool kRounds = Memory<WarpLanes>::kRounds;
  constexpr int kLast = kTeamThreads - 32;  // A thread of the last warp, which decides nothing.
  const int thread = static_cast<int>(threadIdx.x);
  if (!kReplay) TeamWeights::Stage(model.weights, shared.weights, thread, kTeamThreads);
  if (thread == kLast) shared.turns[0].Take<kRounds>(model, states, tables, blockIdx.x);
  __syncthreads();
  int turn = 0;
  for (size_t next = blockIdx.x; next < tables.chunk_count; next += gridDim.x, turn ^= 1) {
    const TeamTurn& at = shared.turns[turn];
    TeamWarp<WarpLanes, Memory> warp(team_model, shared.weights, shared.scratch, at.step, at.before,
                                     thread / 32);
    const auto look_ahead = [&] {
      if (thread != kLast) return;
      shared.turns[turn ^ 1].Take<kRounds>(model, states, tables, next + gridDim.x);
    };
    if (kReplay) {
      warp.Replay();
      look_ahead();
      __syncthreads();
      if (thread == 0) warp.FinishReplay(square_sums + at.item, capped + at.item);
      __syncthreads();
      continue;
    }
    if (kRounds) {
      warp.WriteSquares();
      __syncthreads();
    }
    warp.Measure();
    __syncthreads();
    warp.DecideFirst();
    look_ahead();
    __syncthreads();
    warp.DecideSecond();
    __syncthreads();
    warp.DecideThird();
    __syncthreads();
    warp.DecideLast();
    __syncthreads();
    warp.WriteMemory();
    __syncthreads();
    const float cap = warp.Bound();
    warp.WriteUpdate(cap);
    __syncthreads();
    if (thread == 0) warp.Finish(cap, square_sums + at.item, capped + at.item);
  }
}

// `scratch` is no __restrict__ pointer: a barrier would not keep the compiler from reading what
// another thread is still to write there.
template <class Memory, bool kReplay>
__global__ void __launch_bounds__(kBlockThreads)
    StepBlocks(const __grid_constant__ MnemosyneModel model,
               const __grid_constant__ MnemosyneStates states,
               const __grid_constant__ MnemosyneStepTables tables, float* scratch,
               size_t scratch_count, double* __restrict__ square_sums,
               uint32_t* __restrict__ capped) {
  float* const own = scratch + blockIdx.x * scratch_count;
  for (size_t next = blockIdx.x; next < tables.chunk_count; next += gridDim.x) {
    const uint32_t item = tables.chunks[next];
    const ChunkTile tile = tables.tiles[item / kTileChunks];
    const MnemosyneArrays& arrays = ArraysOf(states, tile);
    const size_t c = tile.first_chunk + item % kTileChunks;
    MnemosyneChunkStep step = ChunkStepOf(model, arrays, tables, tile, c);
    MnemosyneRounding rounding;
    if (Memory::kRounds) {
      rounding = ChunkRoundingOf(arrays, tables, tile, c);
      step.rounding = &rounding;
    }
    BlockChunk<BlockThreads, Memory> chunk(model, own, step);
    if (kReplay) {
      chunk.Replay(square_sums + item, capped + item);
    } else {
      chunk.Step(square_sums + item, capped + item);
    }
  }
}

// Adds up the chunks of each tile, in order: a thread takes a tile.
__global__ void SumTileChunks(const ChunkTile* __restrict__ tiles, size_t tile_count,
                              const double* __restrict__ square_sums,
                              const uint32_t* __restrict__ capped, TileResult* __restrict__ to) {
  const size_t tile = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (tile >= tile_count) return;
  const size_t first = tile * kTileChunks, end = first + tiles[tile].count;
  TileResult result = {0, 0};
#pragma unroll 8
  for (size_t i = first; i < end; ++i) {
    result.square_sum += square_sums[i];
    result.capped += capped[i];
  }
  to[tile] = result;
}

unsigned Blocks(size_t count, size_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

template <typename Kernel>
cudaError_t AllowShared(Kernel kernel, size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

template <template <class> class Memory, bool kReplay>
cudaError_t LaunchTeams(const MnemosyneModel& model, const MnemosyneStates& states,
                        const MnemosyneStepTables& tables, const MnemosyneStepSpace& space,
                        unsigned processors, cudaStream_t stream) {
  const cudaError_t error = AllowShared(StepTeams<Memory, kReplay>, sizeof(TeamShared));
  if (error != cudaSuccess) return error;
  const unsigned needed = static_cast<unsigned>(tables.chunk_count);
  const unsigned blocks = needed < kTeams * processors ? needed : kTeams * processors;
  StepTeams<Memory, kReplay><<<blocks, kTeamThreads, sizeof(TeamShared), stream>>>(
      model, TeamModel::Of(model), states, tables, space.square_sums, space.capped);
  return cudaGetLastError();
}

template <class Memory, bool kReplay>
cudaError_t LaunchBlocks(const MnemosyneModel& model, const MnemosyneStates& states,
                         const MnemosyneStepTables& tables, const MnemosyneStepSpace& space,
                         cudaStream_t stream) {
  const unsigned needed = static_cast<unsigned>(tables.chunk_count);
  const unsigned blocks = needed < space.scratch_blocks ? needed : space.scratch_blocks;
  StepBlocks<Memory, kReplay><<<blocks, kBlockThreads, 0, stream>>>(
      model, states, tables, space.scratch, BlockScratch::Count(model.sizes), space.square_sums,
      space.capped);
  return cudaGetLastError();
}

}  // namespace

size_t StepScratchCount(const MnemosyneSizes& sizes) {
  return TeamSizes::Fit(sizes) ? 0 : BlockScratch::Count(sizes);
}

cudaError_t LaunchMnemosyneContext(const MnemosyneModel& model, const MnemosyneStates& states,
                                   const MnemosyneContextTables& tables,
                                   const uint32_t* level_counts, size_t level_count,
                                   const MnemosyneContextSpace& space, cudaStream_t stream) {
  const size_t size = ContextContentCount(model.sizes);
  const size_t shared = ContextScratchCount(model.sizes) * sizeof(float);
  cudaError_t error = AllowShared(Context, shared);
  if (error != cudaSuccess) return error;
  Context<<<static_cast<unsigned>(tables.tile_count), kContextThreads, shared, stream>>>(
      model, states, tables.tiles, size, space.rows, space.tile_sums);
  const RowSum* sums = tables.sums;
  for (size_t level = 0; level < level_count; ++level) {
    SumRows<<<level_counts[level], kContextThreads, 0, stream>>>(sums, size, space.rows);
    sums += level_counts[level];
  }
  SumTiles<<<Blocks(tables.tensor_count, kTensorThreads), kTensorThreads, 0, stream>>>(tables,
                                                                                       space);
  return cudaGetLastError();
}

cudaError_t LaunchMnemosyneStep(const MnemosyneModel& model, const MnemosyneStates& states,
                                const MnemosyneStepTables& tables, const MnemosyneStepSpace& space,
                                bool replay, unsigned processors, cudaStream_t stream) {
  cudaError_t error;
  if (TeamSizes::Fit(model.sizes)) {
    const auto launch =
        states.first.fast_half == nullptr
            ? (replay ? &LaunchTeams<FullMemory, true> : &LaunchTeams<FullMemory, false>)
            : (replay ? &LaunchTeams<HalfMemory, true> : &LaunchTeams<HalfMemory, false>);
    error = launch(model, states, tables, space, processors, stream);
  } else {
    const auto launch =
        states.first.fast_half == nullptr
            ? (replay ? &LaunchBlocks<BlockFloats, true> : &LaunchBlocks<BlockFloats, false>)
            : (replay ? &LaunchBlocks<BlockHalves, true> : &LaunchBlocks<BlockHalves, false>);
    error = launch(model, states, tables, space, stream);
  }
  if (error != cudaSuccess) return error;
  SumTileChunks<<<Blocks(tables.tile_count, kTensorThreads), kTensorThreads, 0, stream>>>(
      tables.tiles, tables.tile_count, space.square_sums, space.capped, space.results);
  return cudaGetLastError();
}

}  // namespace mnemosyne::kernels::cuda
