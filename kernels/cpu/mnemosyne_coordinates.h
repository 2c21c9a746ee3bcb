// What a step of the flagship lays out before it computes: the parts of its workspace, a chunk's
// coordinates in whole vectors, and what an update is read with. Included by kernel_loops.h, inside
// its unnamed namespace.

// Where the parts of the workspace lie, in floats.
struct MnemosyneScratch {
  size_t cell_stride;   // Lanes of a cell: its size, rounded up to vectors.
  size_t groups;        // Of 16 cells.
  size_t columns;       // Lanes of a cell's token.
  size_t coordinates;   // Lanes of a chunk.
  size_t token_stride;  // Of the rows of chunks.
  size_t packed, smooth, cell_sums, sums, features, tokens, joined, parts, queries, keys, rows;
  size_t content, merged, mass, mass_sums, attended, hidden, token_sums;
  size_t means, described, pool_inputs, decoder_inputs, heads, query_features, key_features,
      decisions;
  size_t end = 0;

  explicit MnemosyneScratch(const MnemosyneSizes& s) {
    cell_stride = (s.cell_size + kLanes - 1) / kLanes * kLanes;
    groups = (s.chunk_cells + kLanes - 1) / kLanes;
    columns = PaddedColumns(s.cell_width);
    coordinates = groups * kLanes * cell_stride;
    const size_t width = s.cell_width, features_max = s.cell_map.features;
    const size_t tile = kGroupsAtOnce * kLanes;
    packed = Take(4 * coordinates);
    smooth = Take(coordinates * kTokensAtOnce);
    cell_sums = Take(kLanes * kLanes);
    sums = Take(groups * kCellSumCount * kLanes);
    features = Take(kCellFeatureCount * tile);
    tokens = Take(groups * width * kLanes);
    joined = Take(2 * s.key_width * tile);
    parts = Take((s.key_width + s.positional) * tile);
    queries = Take(groups * features_max * kLanes);
    keys = Take(features_max * tile);
    rows = Take(columns * tile);
    content = Take(features_max * columns);
    merged = Take(features_max * columns);
    mass = Take(PaddedColumns(features_max));
    mass_sums = Take(PaddedColumns(features_max) * kLanes);
    attended = Take(width * tile);
    hidden = Take(s.cell_hidden * tile);
    token_sums = Take(PaddedColumns(width + s.cell_hidden) * kLanes);

    token_stride = PaddedColumns(s.cell_width + s.cell_hidden + kChunkFeatureCount);
    const size_t features_of_chunks = s.memory_map.features > s.context_map.features
                                          ? s.memory_map.features
                                          : s.context_map.features;
    const size_t counts[] = {DecoderInputCount(s) + kLanes, 2 * (2 * s.key_width + s.memory_width),
                             s.hidden, s.token_width, features_of_chunks};
    for (const size_t count : counts) {
      if (PaddedColumns(count) > token_stride) token_stride = PaddedColumns(count);
    }
    const size_t block = kTokensAtOnce * token_stride;
    means = Take(kLanes * kLanes);
    described = Take(2 * kLanes * kLanes);
    pool_inputs = Take(block);
    decoder_inputs = Take(block);
    heads = Take(block);
    query_features = Take(block);
    key_features = Take(block);
    decisions = Take(block);
  }

 private:
  size_t Take(size_t count) {
    const size_t start = end;
    end += (count + kLanes - 1) / kLanes * kLanes;
    return start;
  }
};

size_t MnemosyneScratchCount(const MnemosyneSizes& sizes) { return MnemosyneScratch(sizes).end; }

// The coordinates of a chunk, each cell in whole vectors: where they are, and those of cells that
// do not fill their vectors in a copy padded with zeros.
struct Coordinates {
  struct Array {
    float* in_place;
    float* packed;
  };

  const size_t cell_size, stride, cells, count;
  const size_t whole;  // Cells that are where they are.
  Array values, fast, square, slow;

  Coordinates(const MnemosyneSizes& sizes, const MnemosyneScratch& layout,
              const MnemosyneChunkStep& step, float* packed)
      : cell_size(sizes.cell_size),
        stride(layout.cell_stride),
        cells(step.chunk->cells),
        count(step.chunk->count),
        whole(cell_size == stride ? count / cell_size : 0),
        values(Pack(step.values, packed)),
        fast(Pack(step.fast, packed + layout.coordinates)),
        square(Pack(step.square, packed + 2 * layout.coordinates)),
        slow(Pack(step.slow, packed + 3 * layout.coordinates)) {}

  float* At(const Array& array, size_t cell) const {
    return cell < whole ? array.in_place + cell * stride : array.packed + (cell - whole) * stride;
  }

  void PutBack(bool replay) const {
    Unpack(values);
    if (replay) return;
    Unpack(fast);
    Unpack(square);
    Unpack(slow);
  }

  size_t SizeOf(size_t cell) const {
    const size_t start = cell * cell_size;
    if (start >= count) return 0;
    return count - start < cell_size ? count - start : cell_size;
  }

 private:
  Array Pack(float* from, float* to) const {
    for (size_t cell = whole; cell < cells; ++cell) {
      float* const target = to + (cell - whole) * stride;
      const size_t size = SizeOf(cell);
      for (size_t i = 0; i < size; ++i) target[i] = from[cell * cell_size + i];
      for (size_t i = size; i < stride; ++i) target[i] = 0;
    }
    return {from, to};
  }
  void Unpack(const Array& array) const {
    for (size_t cell = whole; cell < cells; ++cell) {
      const float* const from = array.packed + (cell - whole) * stride;
      const size_t size = SizeOf(cell);
      for (size_t i = 0; i < size; ++i) array.in_place[cell * cell_size + i] = from[i];
    }
  }
};

// The gradient as the optimizer sees it.
inline Floats Clamped(Floats gradient, Floats scale) {
  const Floats limit = Splat(kGradientMax);
  return Max(Min(scale * gradient, limit), Splat(0) - limit);
}

// 1 / root(s), 0 where nothing was seen.
inline Floats InverseRoot(Floats square, Floats floor) {
  const Floats zero = Splat(0);
  return SelectLess(zero, square, Splat(1) / (Sqrt(square) + floor), zero);
}

// What an update is made with.
struct Reading {
  Floats sharp_scale, weight_sharp, weight_fast, weight_slow, level, share, negative_step, cap;

  Reading(const MnemosyneChoice& c, const MnemosyneKnobs& knobs)
      : sharp_scale(Splat(c.sharp_scale)),
        weight_sharp(Splat(c.weight_sharp)),
        weight_fast(Splat(c.weight_fast)),
        weight_slow(Splat(c.weight_slow)),
        level(Splat(c.level)),
        share(Splat(knobs.guard_share)),
        negative_step(Splat(-c.step)),
        cap(Splat(c.cap)) {}

  // The update before the cap: `sharp` is the bounded direction, `smooth` r1 / root(s).
  Floats Update(Floats sharp, Floats smooth, Floats slow, Floats gain) const {
    const Floats read =
        Fma(weight_sharp, sharp, Fma(weight_slow, slow, weight_fast * smooth)) * gain;
    return negative_step * Fma(level, share * smooth - read, read);
  }
};
