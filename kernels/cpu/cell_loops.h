// Maps and features of many cells, of which 16 are in the lanes of a vector: an array of n numbers
// a cell is [n, 16] for a group of 16 cells. Included by kernel_loops.h, inside its unnamed
// namespace.

// Outputs of a map whose sums are formed together, and groups of 16 cells that share its weights:
// as many as the registers hold.
#if defined(__AVX512F__)
constexpr size_t kOutputsAtOnce = 8;
constexpr size_t kGroupsAtOnce = 2;
#else
constexpr size_t kOutputsAtOnce = 4;
constexpr size_t kGroupsAtOnce = 1;
#endif

inline float FirstLane(Floats x) {
  alignas(64) float lanes[kLanes];
  Store(lanes, x);
  return lanes[0];
}

inline float ScalarSqrt(float x) { return FirstLane(Sqrt(Splat(x))); }

// 1 in the first `count` lanes, else 0.
inline Floats FirstLanes(size_t count) {
  alignas(64) float lanes[kLanes] = {};
  for (size_t i = 0; i < count && i < kLanes; ++i) lanes[i] = 1;
  return Load(lanes);
}

// An array of `rows` numbers a cell for some groups, the groups `step` floats apart.
struct CellRows {
  float* data;
  size_t step;

  float* Row(size_t group, size_t row) const { return data + group * step + row * kLanes; }
};

// kOutputs outputs of x W + b for kGroups groups; rows of W are `stride` apart.
template <size_t kGroups, size_t kOutputs>
inline void MapOutputs(const float* w, const float* b, size_t inputs, size_t stride, CellRows x,
                       CellRows y) {
  Floats sums[kOutputs][kGroups];
  MNEMOSYNE_UNROLL
  for (size_t k = 0; k < kOutputs; ++k) {
    MNEMOSYNE_UNROLL
    for (size_t g = 0; g < kGroups; ++g) sums[k][g] = Splat(b == nullptr ? 0 : b[k]);
  }
  for (size_t i = 0; i < inputs; ++i) {
    Floats values[kGroups];
    MNEMOSYNE_UNROLL
    for (size_t g = 0; g < kGroups; ++g) values[g] = Load(x.Row(g, i));
    MNEMOSYNE_UNROLL
    for (size_t k = 0; k < kOutputs; ++k) {
      const Floats weight = Splat(w[i * stride + k]);
      MNEMOSYNE_UNROLL
      for (size_t g = 0; g < kGroups; ++g) sums[k][g] = Fma(weight, values[g], sums[k][g]);
    }
  }
  MNEMOSYNE_UNROLL
  for (size_t k = 0; k < kOutputs; ++k) {
    MNEMOSYNE_UNROLL
    for (size_t g = 0; g < kGroups; ++g) Store(y.Row(g, k), sums[k][g]);
  }
}

// x W + b for kGroups groups; b may be null.
template <size_t kGroups>
inline void MapGroups(const float* w, const float* b, size_t inputs, size_t stride, size_t outputs,
                      CellRows x, CellRows y) {
  const auto bias = [&](size_t k) { return b == nullptr ? nullptr : b + k; };
  size_t k = 0;
  for (; k + kOutputsAtOnce <= outputs; k += kOutputsAtOnce) {
    MapOutputs<kGroups, kOutputsAtOnce>(w + k, bias(k), inputs, stride, x, {y.Row(0, k), y.step});
  }
  for (; k < outputs; ++k) {
    MapOutputs<kGroups, 1>(w + k, bias(k), inputs, stride, x, {y.Row(0, k), y.step});
  }
}

// The same for one group: x [inputs, 16], y [outputs, 16].
inline void MapCells(const float* w, const float* b, size_t inputs, size_t stride, size_t outputs,
                     const float* x, float* y) {
  MapGroups<1>(w, b, inputs, stride, outputs, {const_cast<float*>(x), 0}, {y, 0});
}

// Features of 16 cells from what their projection is: x [inputs, 16], phi [features, 16] with the
// projection in its first rows.
inline void BendProjection(const FeatureMapSizes& sizes, const float* x, float* phi) {
  const size_t count = ProjectionCount(sizes), inputs = sizes.inputs;
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

// Features phi of kGroups groups: x [inputs, 16], phi [features, 16].
template <size_t kGroups>
inline void GroupFeatures(const FeatureMapSizes& sizes, const MapWeights& weights, CellRows x,
                          CellRows phi) {
  const size_t count = ProjectionCount(sizes);
  if (count > 0) {
    MapGroups<kGroups>(weights.w, weights.b, sizes.inputs, PaddedColumns(count), count, x, phi);
  }
  for (size_t g = 0; g < kGroups; ++g) BendProjection(sizes, x.Row(g, 0), phi.Row(g, 0));
}

// The same for one group.
inline void CellFeatures(const FeatureMapSizes& sizes, const MapWeights& weights, const float* x,
                         float* phi) {
  GroupFeatures<1>(sizes, weights, {const_cast<float*>(x), 0}, {phi, 0});
}

// x / sqrt(1 + |x|^2) of 16 cells: x [width, 16].
inline void BoundCells(size_t width, const float* x, float* y) {
  Floats square = Splat(1);
  for (size_t i = 0; i < width; ++i) {
    const Floats value = Load(x + i * kLanes);
    square = Fma(value, value, square);
  }
  const Floats factor = Splat(1) / Sqrt(square);
  for (size_t i = 0; i < width; ++i) Store(y + i * kLanes, Load(x + i * kLanes) * factor);
}

// Half the logarithm of a ratio of squares, clipped and halved; 0 where one is at most `least`.
inline Floats LogRatio(Floats above, Floats below, Floats least) {
  const Floats one = Splat(1), limit = Splat(2980.95799F);  // e^8
  const Floats a = SelectLess(least, below, SelectLess(least, above, above, one), one);
  const Floats b = SelectLess(least, above, SelectLess(least, below, below, one), one);
  return Splat(0.25F) * Log(Max(Min(a / b, limit), one / limit));
}

// The sums over the coordinates of a cell: g, r1 and r2 as they were, the new s, what the memories
// said before this step, and the directions of this step and of Adam.
enum : size_t {
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
  kSize,  // Of coordinates.
};
static_assert(kSize + 1 == kCellSumCount && kCellSumCount % 4 == 0);

// A vector's norm and whether it counts: the root of a sum of squares, 1 if that is at most
// `least`.
struct NormOfSums {
  Floats square, root;

  NormOfSums(Floats sum, Floats least)
      : square(sum), root(Sqrt(SelectLess(least, sum, sum, Splat(1)))) {}
};

// A cosine from a product and two norms; 0 where a square is at most `least`.
inline Floats Cosine(Floats product, const NormOfSums& left, const NormOfSums& right,
                     Floats least) {
  const Floats one = Splat(1), zero = Splat(0);
  const Floats cosine = Max(Min(product / left.root / right.root, one), zero - one);
  return SelectLess(least, left.square, SelectLess(least, right.square, cosine, zero), zero);
}

// The statistics that cells and chunks have in common: `features` [9].
inline void Statistics(const Floats* sums, Floats least, Floats* features) {
  const NormOfSums grad(sums[kGrad2], least), old(sums[kOld2], least), slow(sums[kSlow2], least);
  const NormOfSums sharp(sums[kSharp2], least), smooth(sums[kSmooth2], least);
  const NormOfSums previous(sums[kPrevious2], least);
  features[0] = LogRatio(sums[kGrad2], sums[kSquare], least);
  features[1] = Cosine(sums[kGradOld], grad, old, least);
  features[2] = Cosine(sums[kSharpSlow], sharp, slow, least);
  features[3] = Cosine(sums[kSmoothSlow], smooth, slow, least);
  features[4] = Cosine(sums[kSharpPrevious], sharp, previous, least);
  features[5] = LogRatio(sums[kSmooth2], sums[kSize], least);
  features[6] = LogRatio(sums[kSlow2], sums[kSize], least);
  features[7] = LogRatio(sums[kPrevious2], sums[kSize], least);
  features[8] = LogRatio(sums[kSharp2], sums[kSize], least);
}
