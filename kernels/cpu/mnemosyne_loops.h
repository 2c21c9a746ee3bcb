// The step of the flagship for one chunk; see mnemosyne_step.h. Included by kernel_loops.h, inside
// its unnamed namespace.
//
// Coordinates are read in vectors of a cell. What is computed for cells has 16 cells in the lanes
// of a vector: an array of n numbers a cell is [n, 16], one group of cells after the other. Every
// instruction set adds in the same order.

// Outputs of a map whose sums are formed together.
#if defined(__AVX512F__)
constexpr size_t kOutputsAtOnce = 8;
#else
constexpr size_t kOutputsAtOnce = 4;
#endif

// Where the parts of the workspace lie, in floats.
struct MnemosyneScratch {
  size_t cell_stride;  // Lanes of a cell: its size, rounded up to vectors.
  size_t groups;       // Of 16 cells.
  size_t packed, smooth, partial, sums, features, tokens, heads, queries, keys, rows, content, mass;
  size_t attended, hidden, row, end;

  explicit MnemosyneScratch(const MnemosyneSizes& s) {
    cell_stride = (s.cell_size + kLanes - 1) / kLanes * kLanes;
    groups = (s.chunk_cells + kLanes - 1) / kLanes;
    const size_t coordinates = groups * kLanes * cell_stride;
    const size_t width = s.cell_width, features_max = s.cell_map.features;
    end = 0;
    packed = Take(4 * coordinates);
    smooth = Take(coordinates);
    partial = Take(kCellSumCount * kLanes * kLanes);
    sums = Take(kCellSumCount * groups * kLanes);
    features = Take(kCellFeatureCount * kLanes);
    tokens = Take(groups * width * kLanes);
    heads = Take((2 * (s.key_width + s.positional) + width) * kLanes);
    queries = Take(groups * features_max * kLanes);
    keys = Take(PaddedColumns(features_max) * kLanes);
    rows = Take(kLanes * (width + kLanes));
    content = Take(features_max * (width + kLanes));
    mass = Take(PaddedColumns(features_max));
    attended = Take(width * kLanes);
    hidden = Take((s.cell_hidden + s.key_width + width) * kLanes);
    row = Take(4 * kRowWidthMax);
  }

 private:
  size_t Take(size_t count) {
    const size_t start = end;
    end += (count + kLanes - 1) / kLanes * kLanes;
    return start;
  }
};

size_t MnemosyneScratchCount(const MnemosyneSizes& sizes) { return MnemosyneScratch(sizes).end; }

inline float FirstLane(Floats x) {
  alignas(64) float lanes[kLanes];
  Store(lanes, x);
  return lanes[0];
}

inline float ScalarExp(float x) { return FirstLane(Exp(Splat(x))); }
inline float ScalarTanh(float x) { return FirstLane(Tanh(Splat(x))); }

// The sum of the lanes in float64, in a fixed tree.
inline double SumOfLanes(Floats x) {
  alignas(64) float lanes[kLanes];
  Store(lanes, x);
  double sums[kLanes / 2];
  for (size_t i = 0; i < kLanes / 2; ++i) {
    sums[i] = static_cast<double>(lanes[i]) + static_cast<double>(lanes[i + kLanes / 2]);
  }
  for (size_t width = kLanes / 4; width > 0; width /= 2) {
    for (size_t i = 0; i < width; ++i) sums[i] += sums[i + width];
  }
  return sums[0];
}

// 1 in the first `count` lanes, else 0.
inline Floats FirstLanes(size_t count) {
  alignas(64) float lanes[kLanes] = {};
  for (size_t i = 0; i < count && i < kLanes; ++i) lanes[i] = 1;
  return Load(lanes);
}

// kOutputs outputs of x W + b for 16 cells: x [inputs, 16]; rows of W are `stride` apart.
template <size_t kOutputs>
inline void MapOutputs(const float* w, const float* b, size_t inputs, size_t stride, const float* x,
                       float* y) {
  Floats sums[kOutputs];
  for (size_t k = 0; k < kOutputs; ++k) sums[k] = Splat(b == nullptr ? 0 : b[k]);
  for (size_t i = 0; i < inputs; ++i) {
    const Floats value = Load(x + i * kLanes);
    for (size_t k = 0; k < kOutputs; ++k) sums[k] = Fma(Splat(w[i * stride + k]), value, sums[k]);
  }
  for (size_t k = 0; k < kOutputs; ++k) Store(y + k * kLanes, sums[k]);
}

// x W + b for 16 cells: x [inputs, 16], y [outputs, 16]; b may be null.
inline void MapCells(const float* w, const float* b, size_t inputs, size_t stride, size_t outputs,
                     const float* x, float* y) {
  const auto bias = [&](size_t k) { return b == nullptr ? nullptr : b + k; };
  size_t k = 0;
  for (; k + kOutputsAtOnce <= outputs; k += kOutputsAtOnce) {
    MapOutputs<kOutputsAtOnce>(w + k, bias(k), inputs, stride, x, y + k * kLanes);
  }
  for (; k < outputs; ++k) MapOutputs<1>(w + k, bias(k), inputs, stride, x, y + k * kLanes);
}

inline void MapCells(const DenseWeights& weights, size_t inputs, size_t outputs, const float* x,
                     float* y) {
  MapCells(weights.w, weights.b, inputs, PaddedColumns(outputs), outputs, x, y);
}

// Features phi of 16 cells: x [inputs, 16], phi [features, 16].
inline void CellFeatures(const FeatureMapSizes& sizes, const MapWeights& weights, const float* x,
                         float* phi) {
  const size_t count = ProjectionCount(sizes), inputs = sizes.inputs;
  if (count > 0) MapCells(weights.w, weights.b, inputs, PaddedColumns(count), count, x, phi);
  const Floats scale = Splat(sizes.scale), zero = Splat(0);
  switch (sizes.shape) {
    case FeatureMapShape::kExponential:
    case FeatureMapShape::kHyperbolic: {
      Floats half = zero;
      for (size_t i = 0; i < inputs; ++i) {
        const Floats value = Load(x + i * kLanes);
        half = Fma(value, value, half);
      }
      half = Splat(0.5F) * half;
      for (size_t k = 0; k < count; ++k) {
        const Floats exponent = Load(phi + k * kLanes);
        Store(phi + k * kLanes, scale * Exp(exponent - half));
        if (sizes.shape == FeatureMapShape::kExponential) continue;
        Store(phi + (count + k) * kLanes, scale * Exp(zero - exponent - half));
      }
      return;
    }
    case FeatureMapShape::kRelu:
      for (size_t k = 0; k < count; ++k) {
        Store(phi + k * kLanes,
              Fma(scale, Max(Load(phi + k * kLanes), zero), Splat(sizes.epsilon)));
      }
      return;
    case FeatureMapShape::kElu:
      for (size_t i = 0; i < inputs; ++i) {
        const Floats value = Load(x + i * kLanes);
        Store(phi + i * kLanes, SelectLess(zero, value, value + Splat(1), Exp(Min(value, zero))));
      }
      return;
    case FeatureMapShape::kDpfp: {
      const size_t twice = 2 * inputs;
      const auto rectified = [&](size_t k) {
        const Floats value = Load(x + (k < inputs ? k : k - inputs) * kLanes);
        return Max(k < inputs ? value : zero - value, zero);
      };
      for (size_t shift = 1; shift <= sizes.features / twice; ++shift) {
        for (size_t k = 0; k < twice; ++k) {
          Store(phi + ((shift - 1) * twice + k) * kLanes,
                rectified(k) * rectified((k + twice - shift % twice) % twice));
        }
      }
      return;
    }
  }
}

// x / sqrt(1 + |x|^2) of 16 cells, in place: x [width, 16].
inline void BoundCells(size_t width, const float* x, float* y) {
  Floats square = Splat(1);
  for (size_t i = 0; i < width; ++i) {
    const Floats value = Load(x + i * kLanes);
    square = Fma(value, value, square);
  }
  const Floats factor = Splat(1) / Sqrt(square);
  for (size_t i = 0; i < width; ++i) Store(y + i * kLanes, Load(x + i * kLanes) * factor);
}

// x W + b of one row, padded; four sums of every fourth input, since one would wait for itself.
inline void MapRow(const DenseWeights& weights, size_t inputs, size_t outputs, const float* x,
                   float* y) {
  const size_t stride = PaddedColumns(outputs);
  for (size_t first = 0; first < stride; first += kLanes) {
    const float* w = weights.w + first;
    Floats a = Load(weights.b + first), b = Splat(0), c = Splat(0), d = Splat(0);
    size_t i = 0;
    for (; i + 4 <= inputs; i += 4, w += 4 * stride) {
      a = Fma(Splat(x[i]), Load(w), a);
      b = Fma(Splat(x[i + 1]), Load(w + stride), b);
      c = Fma(Splat(x[i + 2]), Load(w + 2 * stride), c);
      d = Fma(Splat(x[i + 3]), Load(w + 3 * stride), d);
    }
    for (; i < inputs; ++i, w += stride) a = Fma(Splat(x[i]), Load(w), a);
    Store(y + first, (a + b) + (c + d));
  }
}

// In place, up to the padding.
inline void TanhRow(size_t count, float* x) {
  for (size_t i = 0; i < count; i += kLanes) Store(x + i, Tanh(Load(x + i)));
}

// Queries and keys of one row: x / sqrt(1 + |x|^2).
inline void BoundRow(size_t width, const float* x, float* y) {
  float square = 1;
  for (size_t i = 0; i < width; ++i) square += x[i] * x[i];
  const float factor = FirstLane(Splat(1) / Sqrt(Splat(square)));
  for (size_t i = 0; i < width; ++i) y[i] = x[i] * factor;
}

// Features of one row, padded: phi has room for a vector behind its last feature.
inline void RowFeatures(const FeatureMapSizes& sizes, const MapWeights& weights, const float* x,
                        float* phi) {
  if (sizes.shape != FeatureMapShape::kExponential) {
    // Where a row of weights is padded, the map is one row at a time of a matrix without padding.
    float projection[kMnemosyneWidthMax * kMnemosyneWidthMax];
    const size_t count = ProjectionCount(sizes);
    for (size_t i = 0; i < sizes.inputs; ++i) {
      for (size_t k = 0; k < count; ++k) {
        projection[i * count + k] = weights.w[i * PaddedColumns(count) + k];
      }
    }
    return FeatureMap(sizes, 1, {x, sizes.inputs}, projection, weights.b, {phi, sizes.features});
  }
  const size_t stride = PaddedColumns(sizes.features);
  float square = 0;
  for (size_t i = 0; i < sizes.inputs; ++i) square += x[i] * x[i];
  const Floats half = Splat(0.5F * square), scale = Splat(sizes.scale);
  for (size_t first = 0; first < stride; first += kLanes) {
    Floats even = weights.b == nullptr ? Splat(0) : Load(weights.b + first), odd = Splat(0);
    size_t i = 0;
    for (; i + 2 <= sizes.inputs; i += 2) {
      even = Fma(Splat(x[i]), Load(weights.w + i * stride + first), even);
      odd = Fma(Splat(x[i + 1]), Load(weights.w + (i + 1) * stride + first), odd);
    }
    if (i < sizes.inputs) even = Fma(Splat(x[i]), Load(weights.w + i * stride + first), even);
    Store(phi + first, scale * Exp(even + odd - half));
  }
}

// Half the logarithm of a ratio of squares, clipped and halved; 0 where one is at most `least`.
inline Floats LogRatio(Floats above, Floats below, Floats least) {
  const Floats one = Splat(1), limit = Splat(2980.95799F);  // e^8
  const Floats a = SelectLess(least, below, SelectLess(least, above, above, one), one);
  const Floats b = SelectLess(least, above, SelectLess(least, below, below, one), one);
  return Splat(0.25F) * Log(Max(Min(a / b, limit), one / limit));
}

// A cosine from a product and two squared norms; 0 where one is at most `least`.
inline Floats Cosine(Floats product, Floats left2, Floats right2, Floats least) {
  const Floats one = Splat(1), zero = Splat(0);
  const Floats left = Sqrt(SelectLess(least, left2, left2, one));
  const Floats right = Sqrt(SelectLess(least, right2, right2, one));
  const Floats cosine = Max(Min(product / left / right, one), zero - one);
  return SelectLess(least, left2, SelectLess(least, right2, cosine, zero), zero);
}

// The order of a cell's sums.
enum : size_t {
  kSize,
  kGrad2,
  kOld2,
  kSquare,
  kSlow2,
  kGradOld,
  kPrevious2,
  kSharp2,
  kSmooth2,
  kSharpSlow,
  kSmoothSlow,
  kSharpPrevious,
};
constexpr size_t kFirstSums = 6;  // Of the first pass.

// The statistics that cells and chunks have in common: `features` [9].
inline void Statistics(const Floats* sums, Floats least, Floats* features) {
  features[0] = LogRatio(sums[kGrad2], sums[kSquare], least);
  features[1] = Cosine(sums[kGradOld], sums[kGrad2], sums[kOld2], least);
  features[2] = Cosine(sums[kSharpSlow], sums[kSharp2], sums[kSlow2], least);
  features[3] = Cosine(sums[kSmoothSlow], sums[kSmooth2], sums[kSlow2], least);
  features[4] = Cosine(sums[kSharpPrevious], sums[kSharp2], sums[kPrevious2], least);
  features[5] = LogRatio(sums[kSmooth2], sums[kSize], least);
  features[6] = LogRatio(sums[kSlow2], sums[kSize], least);
  features[7] = LogRatio(sums[kPrevious2], sums[kSize], least);
  features[8] = LogRatio(sums[kSharp2], sums[kSize], least);
}

// The coordinates of a chunk, each cell in whole vectors: where they are, or in a copy padded with
// zeros.
struct Coordinates {
  const MnemosyneChunkStep& at;
  const size_t cell_size, stride, cells, count;
  const bool in_place;
  float *values, *fast, *square, *slow;

  Coordinates(const MnemosyneSizes& sizes, const MnemosyneScratch& layout,
              const MnemosyneChunkStep& step, float* packed)
      : at(step),
        cell_size(sizes.cell_size),
        stride(layout.cell_stride),
        cells(step.chunk->cells),
        count(step.chunk->count),
        in_place(cell_size == stride && count == cells * cell_size) {
    const size_t all = cells * stride;
    values = in_place ? at.values : Pack(at.values, packed);
    fast = in_place ? at.fast : Pack(at.fast, packed + all);
    square = in_place ? at.square : Pack(at.square, packed + 2 * all);
    slow = in_place ? at.slow : Pack(at.slow, packed + 3 * all);
  }

  void PutBack(bool replay) const {
    if (in_place) return;
    Unpack(values, at.values);
    if (replay) return;
    Unpack(fast, at.fast);
    Unpack(square, at.square);
    Unpack(slow, at.slow);
  }

  size_t vectors() const { return cells * stride / kLanes; }

  size_t SizeOf(size_t cell) const {
    const size_t start = cell * cell_size;
    if (start >= count) return 0;
    return count - start < cell_size ? count - start : cell_size;
  }

 private:
  float* Pack(const float* from, float* to) const {
    for (size_t cell = 0; cell < cells; ++cell) {
      const size_t size = SizeOf(cell);
      for (size_t i = 0; i < size; ++i) to[cell * stride + i] = from[cell * cell_size + i];
      for (size_t i = size; i < stride; ++i) to[cell * stride + i] = 0;
    }
    return to;
  }
  void Unpack(const float* from, float* to) const {
    for (size_t cell = 0; cell < cells; ++cell) {
      const size_t size = SizeOf(cell);
      for (size_t i = 0; i < size; ++i) to[cell * cell_size + i] = from[cell * stride + i];
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
  const Floats zero = Splat(0), one = Splat(1);
  const Floats safe = SelectLess(zero, square, square, one);
  return SelectLess(zero, square, one / (Sqrt(safe) + floor), zero);
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

// One chunk at work.
struct ChunkWork {
  const MnemosyneSizes& sizes;
  const MnemosyneKnobs& knobs;
  const MnemosyneWeights& weights;
  const MnemosyneChunkStep& at;
  MnemosyneChoice& choice;
  const MnemosyneScratch layout;
  float* const scratch;
  const Coordinates x;
  float growth = 1;
  float chunk_features[kChunkFeatureCount] = {};

  ChunkWork(const MnemosyneModel& model, const MnemosyneChunkStep& step, float* workspace)
      : sizes(model.sizes),
        knobs(model.knobs),
        weights(model.weights),
        at(step),
        choice(*step.choice),
        layout(model.sizes),
        scratch(workspace),
        x(model.sizes, layout, step, workspace + layout.packed) {}

  size_t groups() const { return (x.cells + kLanes - 1) / kLanes; }
  size_t CellsOf(size_t group) const {
    const size_t left = x.cells - group * kLanes;
    return left < kLanes ? left : kLanes;
  }
  float* Sums(size_t sum) const { return scratch + layout.sums + sum * layout.groups * kLanes; }
  float* Tokens(size_t group) const {
    return scratch + layout.tokens + group * sizes.cell_width * kLanes;
  }
  float* Queries(size_t group) const {
    return scratch + layout.queries + group * sizes.cell_map.features * kLanes;
  }

  // Calls sum(vector, accumulators) for the vectors of each cell, and writes the sums over its
  // lanes to Sums(first) and those behind it.
  template <size_t kCount, typename Sum>
  void SumCells(size_t first, const Sum& sum) const {
    float* const partial = scratch + layout.partial;
    const size_t vectors = x.stride / kLanes;
    for (size_t group = 0; group < groups(); ++group) {
      const size_t cells = CellsOf(group);
      for (size_t c = 0; c < cells; ++c) {
        Floats accumulators[kCount];
        for (size_t k = 0; k < kCount; ++k) accumulators[k] = Splat(0);
        const size_t start = (group * kLanes + c) * x.stride;
        for (size_t v = 0; v < vectors; ++v) sum(start + v * kLanes, accumulators);
        for (size_t k = 0; k < kCount; ++k) {
          Store(partial + (k * kLanes + c) * kLanes, accumulators[k]);
        }
      }
      for (size_t k = 0; k < kCount; ++k) {
        float* const rows = partial + k * kLanes * kLanes;
        for (size_t c = cells; c < kLanes; ++c) Store(rows + c * kLanes, Splat(0));
        Store(Sums(first + k) + group * kLanes, SumRows(rows));
      }
    }
  }

  // The mean over the chunk's coordinates of what Sums holds.
  float Mean(size_t sum) const {
    Floats all = Splat(0);
    for (size_t group = 0; group < groups(); ++group) all = all + Load(Sums(sum) + group * kLanes);
    return static_cast<float>(SumOfLanes(all) / static_cast<double>(x.count));
  }

  // First pass: r1 and s take in the gradient. Leaves the clamped gradient in `values`, and the old
  // r1 in the workspace.
  void WriteMoments() {
    const Floats scale = Splat(at.step->gradient_scale);
    const Floats rate_fast = Splat(at.step->rate_fast), rate_square = Splat(at.step->rate_square);
    float* const kept = scratch + layout.smooth;
    SumCells<kFirstSums - 1>(kGrad2, [&](size_t i, Floats* sums) {
      const Floats g = Clamped(Load(x.values + i), scale);
      const Floats old = Load(x.fast + i), slow = Load(x.slow + i);
      const Floats s = Load(x.square + i);
      const Floats square = Fma(g * g - s, rate_square, s);
      Store(x.values + i, g);
      Store(kept + i, old);
      Store(x.fast + i, Fma(g - old, rate_fast, old));
      Store(x.square + i, square);
      sums[0] = Fma(g, g, sums[0]);
      sums[1] = Fma(old, old, sums[1]);
      sums[2] = sums[2] + square;
      sums[3] = Fma(slow, slow, sums[3]);
      sums[4] = Fma(g, old, sums[4]);
    });
    for (size_t cell = 0; cell < groups() * kLanes; ++cell) {
      Sums(kSize)[cell] = cell < x.cells ? static_cast<float>(x.SizeOf(cell)) : 0.0F;
    }
    choice.mean_square = Mean(kSquare);
    choice.floor = knobs.epsilon * FirstLane(Sqrt(Splat(choice.mean_square)));
  }

  // Statistics of directions: this step's, Adam's, that of r2, and what the memories said before
  // this step. Leaves the unbounded direction in `values`, and Adam's in the workspace.
  void MeasureDirections() {
    const Floats floor = Splat(choice.floor);
    const Floats before_fast =
        Splat(knobs.fast_weight * at.step->fall * ScalarExp(choice.log_fast));
    const Floats before_slow = Splat(knobs.slow_weight * ScalarExp(choice.log_slow));
    float* const smooths = scratch + layout.smooth;
    SumCells<kCellSumCount - kFirstSums>(kPrevious2, [&](size_t i, Floats* sums) {
      const Floats inverse = InverseRoot(Load(x.square + i), floor);
      const Floats slow = Load(x.slow + i), old = Load(smooths + i);
      const Floats sharp = Load(x.values + i) * inverse, smooth = Load(x.fast + i) * inverse;
      const Floats previous = Fma(before_fast, old * inverse, before_slow * slow);
      Store(x.values + i, sharp);
      Store(smooths + i, smooth);
      sums[0] = Fma(previous, previous, sums[0]);
      sums[1] = Fma(sharp, sharp, sums[1]);
      sums[2] = Fma(smooth, smooth, sums[2]);
      sums[3] = Fma(sharp, slow, sums[3]);
      sums[4] = Fma(smooth, slow, sums[4]);
      sums[5] = Fma(sharp, previous, sums[5]);
    });
    const float rms = FirstLane(Sqrt(Splat(Mean(kSharp2))));
    choice.sharp_scale = knobs.write_limit / (rms > knobs.write_limit ? rms : knobs.write_limit);
  }

  // Features of the chunk from means over it, so that sums near the largest float stay finite.
  void DescribeChunk(float old_mean_square) {
    const auto count = static_cast<float>(x.count);
    Floats means[kCellSumCount], features[kChunkStatisticCount];
    for (size_t k = 0; k < kCellSumCount; ++k) means[k] = Splat(Mean(k));
    const Floats least = Splat(kSquareMin / count);
    Statistics(means, least, features);
    float* next = chunk_features;
    for (size_t k = 0; k < kChunkStatisticCount; ++k) *next++ = FirstLane(features[k]);
    *next++ = FirstLane(LogRatio(Splat(old_mean_square), Splat(at.tensor_mean_square), least));
    *next++ = 0.25F * choice.log_step;
    for (size_t k = 0; k < kConditionCount; ++k) *next++ = at.step->conditions[k];
  }

  // Tokens of cells from their features.
  void EmbedCells() {
    const Floats least = Splat(kSquareMin);
    const Floats mean_square = Splat(choice.mean_square), mean_slow2 = Splat(Mean(kSlow2));
    float* const rows = scratch + layout.features;
    for (size_t group = 0; group < groups(); ++group) {
      Floats sums[kCellSumCount], features[kCellFeatureCount];
      for (size_t k = 0; k < kCellSumCount; ++k) sums[k] = Load(Sums(k) + group * kLanes);
      Statistics(sums, least, features);
      features[9] = LogRatio(sums[kSquare], sums[kSize] * mean_square, least);
      features[10] = LogRatio(sums[kSlow2], sums[kSize] * mean_slow2, least);
      for (size_t k = 0; k < kCellFeatureCount; ++k) Store(rows + k * kLanes, features[k]);
      float* const tokens = Tokens(group);
      MapCells(weights.embed, kCellFeatureCount, sizes.cell_width, rows, tokens);
      for (size_t d = 0; d < sizes.cell_width; ++d) {
        Store(tokens + d * kLanes, Tanh(Load(tokens + d * kLanes)));
      }
    }
  }

  // Level 1, before its sums are complete: queries, and what keys and values add to N and Psi.
  void WriteAttention() {
    const size_t width = sizes.cell_width, key = sizes.key_width, positional = sizes.positional;
    const size_t features = sizes.cell_map.features, head_count = PaddedColumns(2 * key + width);
    const float *const heads_w = weights.cell_heads.w, *const heads_b = weights.cell_heads.b;
    float *const heads = scratch + layout.heads, *const joined = scratch + layout.hidden;
    float *const content = scratch + layout.content, *const mass = scratch + layout.mass;
    float *const keys = scratch + layout.keys, *const rows = scratch + layout.rows;
    const size_t columns = (width + kLanes - 1) / kLanes * kLanes;
    for (size_t m = 0; m < features; ++m) {
      for (size_t d = 0; d < columns; d += kLanes) Store(content + m * columns + d, Splat(0));
    }
    for (size_t m = 0; m < features; m += kLanes) Store(mass + m, Splat(0));
    for (size_t group = 0; group < groups(); ++group) {
      const size_t cells = CellsOf(group);
      const Floats mask = FirstLanes(cells);
      // [query, positions, key, positions, value]
      for (size_t side = 0; side < 2; ++side) {
        float* const part = heads + side * (key + positional) * kLanes;
        MapCells(heads_w + side * key, heads_b + side * key, width, head_count, key, Tokens(group),
                 joined);
        BoundCells(key, joined, part);
        PutPositions(group, side, part + key * kLanes);
        float* const phi = side == 0 ? Queries(group) : keys;
        CellFeatures(sizes.cell_map, weights.cell_map, part, phi);
      }
      float* const values = heads + 2 * (key + positional) * kLanes;
      MapCells(heads_w + 2 * key, heads_b + 2 * key, width, head_count, width, Tokens(group),
               values);
      for (size_t m = 0; m < features; ++m) {
        const Floats masked = Load(keys + m * kLanes) * mask;
        Store(keys + m * kLanes, masked);
      }
      for (size_t m = 0; m < features; m += kLanes) {
        for (size_t k = features; k < m + kLanes; ++k) Store(keys + k * kLanes, Splat(0));
        Store(mass + m, Load(mass + m) + SumRows(keys + m * kLanes));
      }
      for (size_t d = 0; d < width; ++d) {
        for (size_t c = 0; c < kLanes; ++c) rows[c * columns + d] = values[d * kLanes + c];
      }
      for (size_t d = 0; d < columns; d += kLanes) {
        size_t m = 0;
        for (; m + kOutputsAtOnce <= features; m += kOutputsAtOnce) {
          AddContent<kOutputsAtOnce>(keys + m * kLanes, rows + d, columns,
                                     content + m * columns + d);
        }
        for (; m < features; ++m) {
          AddContent<1>(keys + m * kLanes, rows + d, columns, content + m * columns + d);
        }
      }
    }
  }

  void PutPositions(size_t group, size_t side, float* target) const {
    const size_t cells = CellsOf(group);
    for (size_t i = 0; i < sizes.positional; ++i) {
      const float* const from =
          at.positions + (side * sizes.positional + i) * x.cells + group * kLanes;
      Store(target + i * kLanes, Splat(knobs.gate_flt) * LoadFirst(from, cells));
    }
  }

  template <size_t kFeatures>
  static void AddContent(const float* keys, const float* rows, size_t stride, float* content) {
    Floats sums[kFeatures];
    for (size_t k = 0; k < kFeatures; ++k) sums[k] = Load(content + k * stride);
    for (size_t c = 0; c < kLanes; ++c) {
      const Floats value = Load(rows + c * stride);
      for (size_t k = 0; k < kFeatures; ++k) {
        sums[k] = Fma(Splat(keys[k * kLanes + c]), value, sums[k]);
      }
    }
    for (size_t k = 0; k < kFeatures; ++k) Store(content + k * stride, sums[k]);
  }

  // The rest of level 1: read, merge, perceptron, gains.
  void ReadAttention() {
    const size_t width = sizes.cell_width, features = sizes.cell_map.features;
    const size_t columns = (width + kLanes - 1) / kLanes * kLanes;
    const float *const content = scratch + layout.content, *const mass = scratch + layout.mass;
    float *const attended = scratch + layout.attended, *const hidden = scratch + layout.hidden;
    const Floats gate = Splat(knobs.gate_level1);
    for (size_t group = 0; group < groups(); ++group) {
      float* const tokens = Tokens(group);
      MapCells(content, nullptr, features, columns, width, Queries(group), attended);
      Floats below = Splat(0);
      for (size_t m = 0; m < features; ++m) {
        below = Fma(Splat(mass[m]), Load(Queries(group) + m * kLanes), below);
      }
      for (size_t d = 0; d < width; ++d) {
        Store(attended + d * kLanes, DivideOrZero(Load(attended + d * kLanes), below));
      }
      MapCells(weights.merge, width, width, attended, hidden);
      for (size_t d = 0; d < width; ++d) {
        Store(tokens + d * kLanes, Fma(gate, Load(hidden + d * kLanes), Load(tokens + d * kLanes)));
      }
      MapCells(weights.expand, width, sizes.cell_hidden, tokens, hidden);
      for (size_t d = 0; d < sizes.cell_hidden; ++d) {
        Store(hidden + d * kLanes, Max(Load(hidden + d * kLanes), Splat(0)));
      }
      MapCells(weights.contract, sizes.cell_hidden, width, hidden, attended);
      for (size_t d = 0; d < width; ++d) {
        Store(tokens + d * kLanes, Load(tokens + d * kLanes) + Load(attended + d * kLanes));
      }
      MapCells(weights.gain, width, 1, tokens, hidden);
      const Floats log_gain = Splat(knobs.gate_cell_gain * kLogGainRange) * Tanh(Load(hidden));
      StoreFirst(at.gains + group * kLanes, Exp(log_gain), CellsOf(group));
    }
  }

  // The chunk's token: the mean of its cells and its own features.
  void Pool(float* token) {
    const size_t width = sizes.cell_width;
    float* const rows = scratch + layout.partial;
    float* const joined = scratch + layout.row;
    const Floats share = Splat(1 / static_cast<float>(x.cells));
    const Floats mask = FirstLanes(CellsOf(groups() - 1));
    for (size_t first = 0; first < width; first += kLanes) {
      const size_t count = width - first < kLanes ? width - first : kLanes;
      for (size_t d = 0; d < kLanes; ++d) {
        Floats sum = Splat(0);
        for (size_t group = 0; d < count && group < groups(); ++group) {
          const Floats value = Load(Tokens(group) + (first + d) * kLanes);
          sum = group + 1 < groups() ? sum + value : Fma(value, mask, sum);
        }
        Store(rows + d * kLanes, sum);
      }
      StoreFirst(joined + first, share * SumRows(rows), count);
    }
    for (size_t k = 0; k < kChunkFeatureCount; ++k) joined[width + k] = chunk_features[k];
    MapRow(weights.pool, width + kChunkFeatureCount, sizes.token_width, joined, token);
    TanhRow(sizes.token_width, token);
  }

  // The memory in time: [J, D] to `read`.
  void Remember(const float* token, float* read) {
    const size_t key = sizes.key_width, width = sizes.memory_width;
    const size_t features = sizes.memory_map.features;
    float* const joined = scratch + layout.row + 2 * kRowWidthMax;
    float query_and_key[2 * kMnemosyneWidthMax], phi[2 * kMnemosyneWidthMax + kLanes];
    MapRow(weights.memory_heads, sizes.token_width, 2 * key + width, token, joined);
    BoundRow(key, joined, query_and_key);
    BoundRow(key, joined + key, query_and_key + key);
    for (size_t head = 0; head < sizes.memory_heads; ++head) {
      RowFeatures(sizes.memory_map, weights.memory_maps[head], query_and_key, phi);
      RowFeatures(sizes.memory_map, weights.memory_maps[head], query_and_key + key, phi + features);
      float* const out = read + head * width;
      AdditiveMemoryStep({features, width}, weights.discounts[head], phi, phi + features,
                         joined + 2 * key, at.content + head * features * width,
                         at.mass + head * features, out);
      for (size_t d = 0; d < width; ++d) out[d] *= knobs.gate_cam;
    }
  }

  // The contexts: [2, D] to `read`.
  void AttendToOthers(float* read) const {
    const size_t width = sizes.memory_width, features = sizes.context_map.features;
    const float* const contents[] = {at.context_contents, at.context_all};
    const float gates[] = {knobs.gate_level2, knobs.gate_across};
    for (size_t head = 0; head < 2; ++head) {
      const float* const phi = at.context_query + head * features;
      Floats below = Splat(0);
      for (size_t m = 0; m < features; ++m) {
        below = Fma(Splat(phi[m]), Splat(contents[head][m * (width + 1) + width]), below);
      }
      for (size_t d = 0; d < width; d += kLanes) {
        const size_t count = width - d < kLanes ? width - d : kLanes;
        Floats above = Splat(0);
        for (size_t m = 0; m < features; ++m) {
          above = Fma(Splat(phi[m]), LoadFirst(contents[head] + m * (width + 1) + d, count), above);
        }
        StoreFirst(read + head * width + d, Splat(gates[head]) * DivideOrZero(above, below), count);
      }
    }
  }

  void Approach(float& current, float target) const {
    current += knobs.smoothing * (target - current);
  }

  // What the chunk decides from its token and what it has read.
  void Decide(const float* inputs) {
    float hidden[2 * kMnemosyneWidthMax + kLanes], out[kLanes];
    MapRow(weights.decoder_hidden, DecoderInputCount(sizes), sizes.hidden, inputs, hidden);
    TanhRow(sizes.hidden, hidden);
    MapRow(weights.decision, sizes.hidden, kDecisionCount, hidden, out);
    const float end = out[0] < 0 ? knobs.eta_low : knobs.eta_high;
    const float target = end * ScalarTanh(2 * out[0] / end);
    TanhRow(kDecisionCount, out);
    Approach(choice.log_sharp, knobs.gate_mixture * kSharpRange * out[5]);
    Approach(choice.log_fast, knobs.gate_mixture * kFastRange * out[1]);
    Approach(choice.log_slow, knobs.gate_mixture * kSlowRange * out[2]);
    const float change = knobs.smoothing * (target - choice.log_step);
    choice.log_step += change < knobs.eta_rise ? change : knobs.eta_rise;

    float logs[kLanes] = {choice.log_sharp,
                          choice.log_fast,
                          choice.log_slow,
                          choice.log_step,
                          knobs.gate_growth * kGrowthRange * out[3],
                          knobs.gate_decay * kDecayRange * out[4]};
    Store(logs, Exp(Load(logs)));
    growth = 1 + knobs.growth * logs[4];
    choice.weight_sharp = knobs.sharp_weight * at.step->fall * logs[0];
    choice.weight_fast = knobs.fast_weight * at.step->fall * logs[1];
    choice.weight_slow = knobs.slow_weight * logs[2];
    choice.step = at.tensor->prior_step * at.step->warm * logs[3];
    choice.level = at.step->level;
    choice.shrink = at.tensor->decays * knobs.decay * logs[5] * choice.step *
                    (choice.weight_sharp + choice.weight_fast + choice.weight_slow);
  }

  // Second pass: r2 takes in the direction, and the update takes its place.
  double WriteUpdates() {
    choice.cap = 1;
    const Reading reading(choice, knobs);
    const Floats rate = Splat(growth / (at.step->age + growth - 1));
    const float* const smooths = scratch + layout.smooth;
    SquareSum sum;
    ForEachVector([&](size_t i, Floats gain) {
      const Floats sharp = reading.sharp_scale * Load(x.values + i);
      const Floats old = Load(x.slow + i);
      const Floats slow = Fma(rate, sharp - old, old);
      const Floats update = reading.Update(sharp, Load(smooths + i), slow, gain);
      Store(x.slow + i, slow);
      Store(x.values + i, update);
      sum.Add(update);
    });
    const double total = Total(sum), limit = static_cast<double>(at.step->limit);
    const double count = static_cast<double>(x.count);
    if (!(total > limit * limit * count)) return total;
    const double square = limit * limit * count / total;
    choice.cap = FirstLane(Sqrt(Splat(static_cast<float>(square))));
    return ScaleUpdates();
  }

  double ScaleUpdates() const {
    const Floats cap = Splat(choice.cap);
    SquareSum sum;
    for (size_t v = 0; v < x.vectors(); ++v) {
      const Floats update = cap * Load(x.values + v * kLanes);
      Store(x.values + v * kLanes, update);
      sum.Add(update);
    }
    return Total(sum);
  }

  // The last update once more.
  double Replay() {
    const Reading reading(choice, knobs);
    const Floats floor = Splat(choice.floor), scale = Splat(at.step->gradient_scale);
    ForEachVector([&](size_t i, Floats gain) {
      const Floats inverse = InverseRoot(Load(x.square + i), floor);
      const Floats sharp = reading.sharp_scale * (Clamped(Load(x.values + i), scale) * inverse);
      Store(x.values + i,
            reading.Update(sharp, Load(x.fast + i) * inverse, Load(x.slow + i), gain));
    });
    return ScaleUpdates();
  }

  // Calls work(position, gain) for all vectors.
  template <typename Work>
  void ForEachVector(const Work& work) const {
    const size_t vectors = x.stride / kLanes;
    for (size_t cell = 0; cell < x.cells; ++cell) {
      const Floats gain = Splat(at.gains[cell]);
      for (size_t v = 0; v < vectors; ++v) work(cell * x.stride + v * kLanes, gain);
    }
  }
};

// Returns the sum of the squares of the chunk's updates.
double MnemosyneChunkUpdate(const MnemosyneModel& model, const MnemosyneChunkStep& step,
                            bool replay, float* scratch) {
  ChunkWork work(model, step, scratch);
  double sum = 0;
  if (replay) {
    sum = work.Replay();
  } else {
    const float old_mean_square = step.choice->mean_square;
    float* const inputs = scratch + work.layout.row + kRowWidthMax;  // Of the decoder.
    float* const read = inputs + model.sizes.token_width;
    work.WriteMoments();
    work.MeasureDirections();
    work.DescribeChunk(old_mean_square);
    // The coordinates of the next chunk, most likely this thread's next, come while this one's
    // cells are at work. Not in a function of its own, which a compiler would take for one without
    // effect.
    const size_t count = step.chunk->count;
    for (size_t i = count; i < 2 * count; i += kLanes) {
      __builtin_prefetch(step.values + i, 0, 2);
      __builtin_prefetch(step.fast + i, 0, 2);
    }
    work.EmbedCells();
    work.WriteAttention();
    for (size_t i = count; i < 2 * count; i += kLanes) {
      __builtin_prefetch(step.square + i, 0, 2);
      __builtin_prefetch(step.slow + i, 0, 2);
    }
    work.ReadAttention();
    work.Pool(inputs);
    for (size_t i = 0; i < model.sizes.token_width; ++i) step.token[i] = inputs[i];
    work.Remember(inputs, read);
    work.AttendToOthers(read + model.sizes.memory_heads * model.sizes.memory_width);
    work.Decide(inputs);
    sum = work.WriteUpdates();
  }
  work.x.PutBack(replay);
  return sum;
}

// Level 2 for one chunk: its queries [2, M'], and what its keys and values add to the contents of
// its tensor and of all [M', D + 1].
void MnemosyneChunkContext(const MnemosyneModel& model, const float* token, float* queries,
                           float* own, float* all) {
  const MnemosyneSizes& sizes = model.sizes;
  const size_t key = sizes.key_width, width = sizes.memory_width;
  const size_t features = sizes.context_map.features, head_size = 2 * key + width;
  float joined[2 * (3 * kMnemosyneWidthMax)], bounded[kMnemosyneWidthMax];
  float phi[kMnemosyneWidthMax + kLanes];
  MapRow(model.weights.context_heads, sizes.token_width, 2 * head_size, token, joined);
  for (size_t head = 0; head < 2; ++head) {
    const float* const part = joined + head * head_size;
    BoundRow(key, part, bounded);
    RowFeatures(sizes.context_map, model.weights.context_map, bounded, phi);
    for (size_t m = 0; m < features; ++m) queries[head * features + m] = phi[m];
    BoundRow(key, part + key, bounded);
    RowFeatures(sizes.context_map, model.weights.context_map, bounded, phi);
    float* const contents = head == 0 ? own : all;
    for (size_t m = 0; m < features; ++m) {
      float* const row = contents + m * (width + 1);
      for (size_t d = 0; d < width; d += kLanes) {
        const size_t count = width - d < kLanes ? width - d : kLanes;
        const Floats value = LoadFirst(part + 2 * key + d, count);
        StoreFirst(row + d, Fma(Splat(phi[m]), value, LoadFirst(row + d, count)), count);
      }
      row[width] += phi[m];
    }
  }
}
