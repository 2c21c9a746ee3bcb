// Maps and features of a few rows at a time, such as the tokens of chunks: lanes are columns, and
// the rows share the loads of weights and hide each other's waits. Included by kernel_loops.h,
// inside its unnamed namespace.

// Rows that are at work together; what is not there is a row of zeros.
constexpr size_t kTokensAtOnce = kMnemosyneBatch;
static_assert(kTokensAtOnce == 4, "TransposeFour gives that many rows");

// Rows of padded columns, `stride` apart.
struct TokenRows {
  float* data;
  size_t stride;

  float* Row(size_t row) const { return data + row * stride; }
  TokenRows From(size_t column) const { return {data + column, stride}; }
};

// kVectors vectors of columns of x W + b; rows of W are `w_stride` apart.
template <size_t kVectors>
inline void MapTokenColumns(const float* w, const float* b, size_t inputs, size_t w_stride,
                            TokenRows x, TokenRows y) {
  Floats sums[kTokensAtOnce][kVectors];
  MNEMOSYNE_UNROLL
  for (size_t r = 0; r < kTokensAtOnce; ++r) {
    MNEMOSYNE_UNROLL
    for (size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = b == nullptr ? Splat(0) : Load(b + v * kLanes);
    }
  }
  for (size_t i = 0; i < inputs; ++i) {
    Floats weights[kVectors];
    MNEMOSYNE_UNROLL
    for (size_t v = 0; v < kVectors; ++v) weights[v] = Load(w + i * w_stride + v * kLanes);
    MNEMOSYNE_UNROLL
    for (size_t r = 0; r < kTokensAtOnce; ++r) {
      const Floats value = Splat(x.Row(r)[i]);
      MNEMOSYNE_UNROLL
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = Fma(value, weights[v], sums[r][v]);
    }
  }
  MNEMOSYNE_UNROLL
  for (size_t r = 0; r < kTokensAtOnce; ++r) {
    MNEMOSYNE_UNROLL
    for (size_t v = 0; v < kVectors; ++v) Store(y.Row(r) + v * kLanes, sums[r][v]);
  }
}

// x W + b of kTokensAtOnce rows, padded; b may be null.
inline void MapTokens(const float* w, const float* b, size_t inputs, size_t outputs, TokenRows x,
                      TokenRows y) {
  const size_t stride = PaddedColumns(outputs);
  const auto bias = [&](size_t k) { return b == nullptr ? nullptr : b + k; };
  size_t k = 0;
#if defined(__AVX512F__)
  for (; k + 2 * kLanes <= stride; k += 2 * kLanes) {
    MapTokenColumns<2>(w + k, bias(k), inputs, stride, x, y.From(k));
  }
#endif
  for (; k < stride; k += kLanes) {
    MapTokenColumns<1>(w + k, bias(k), inputs, stride, x, y.From(k));
  }
}

inline void MapTokens(const DenseWeights& weights, size_t inputs, size_t outputs, TokenRows x,
                      TokenRows y) {
  MapTokens(weights.w, weights.b, inputs, outputs, x, y);
}

// In place, up to the padding.
inline void TanhTokens(size_t count, const TokenRows& x) {
  MNEMOSYNE_UNROLL
  for (size_t r = 0; r < kTokensAtOnce; ++r) {
    for (size_t i = 0; i < count; i += kLanes) Store(x.Row(r) + i, Tanh(Load(x.Row(r) + i)));
  }
}

// Queries or keys: x / sqrt(1 + |x|^2), in place; `halves` are half their squares.
inline void BoundTokens(size_t width, const TokenRows& x, float (&halves)[kTokensAtOnce]) {
  alignas(64) float sums[kTokensAtOnce];
  Floats squares[kTokensAtOnce];
  MNEMOSYNE_UNROLL
  for (size_t r = 0; r < kTokensAtOnce; ++r) {
    squares[r] = Splat(0);
    for (size_t i = 0; i < width; i += kLanes) {
      const Floats value = LoadFirst(x.Row(r) + i, width - i < kLanes ? width - i : kLanes);
      squares[r] = Fma(value, value, squares[r]);
    }
  }
  SumLanes(squares[0], squares[1], squares[2], squares[3], sums);
  MNEMOSYNE_UNROLL
  for (size_t r = 0; r < kTokensAtOnce; ++r) {
    const Floats square = Splat(sums[r]), above = square + Splat(1);
    const Floats factor = Splat(1) / Sqrt(above);
    for (size_t i = 0; i < width; i += kLanes) {
      const size_t count = width - i < kLanes ? width - i : kLanes;
      StoreFirst(x.Row(r) + i, LoadFirst(x.Row(r) + i, count) * factor, count);
    }
    halves[r] = FirstLane(Splat(0.5F) * (square / above));
  }
}

// Features of kTokensAtOnce rows that BoundTokens bounded, padded.
inline void TokenFeatures(const FeatureMapSizes& sizes, const MapWeights& weights,
                          const TokenRows& x, const float (&halves)[kTokensAtOnce],
                          const TokenRows& phi) {
  if (sizes.shape == FeatureMapShape::kExponential) {
    MapTokens(weights.w, weights.b, sizes.inputs, sizes.features, x, phi);
    const Floats scale = Splat(sizes.scale);
    MNEMOSYNE_UNROLL
    for (size_t r = 0; r < kTokensAtOnce; ++r) {
      for (size_t k = 0; k < sizes.features; k += kLanes) {
        float* const at = phi.Row(r) + k;
        Store(at, scale * Exp(Load(at) - Splat(halves[r])));
      }
    }
    return;
  }
  // Where a row of weights is padded, the map is one of a matrix without padding.
  float projection[kMnemosyneWidthMax * kMnemosyneWidthMax];
  const size_t count = ProjectionCount(sizes);
  for (size_t i = 0; i < sizes.inputs; ++i) {
    for (size_t k = 0; k < count; ++k) {
      projection[i * count + k] = weights.w[i * PaddedColumns(count) + k];
    }
  }
  FeatureMap(sizes, kTokensAtOnce, {x.data, x.stride}, projection, weights.b,
             {phi.data, phi.stride});
}
