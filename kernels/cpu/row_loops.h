// The ops of row_ops.h for some rows, groups or memories: a vector's lanes are columns. Included by
// kernel_loops.h, inside its unnamed namespace.

// Rows whose sums are formed together: as many as the registers hold.
#if defined(__AVX512F__)
constexpr size_t kRowsAtOnce = 8;
#elif defined(__AVX2__)
constexpr size_t kRowsAtOnce = 4;
#else
constexpr size_t kRowsAtOnce = 2;
#endif

// Adds the products of kRows rows with 16 columns of a matrix to `sums`.
template <size_t kRows>
inline void MultiplyRows(const RowsIn& x, size_t inputs, const float* columns, size_t stride,
                         Floats (&sums)[kRows]) {
  for (size_t i = 0; i < inputs; ++i) {
    const Floats column = Load(columns + i * stride);
    for (size_t r = 0; r < kRows; ++r) {
      sums[r] = Fma(Splat(x.data[r * x.stride + i]), column, sums[r]);
    }
  }
}

// Calls work.template Run<kRows>(first row) over all rows, most of them kRowsAtOnce at a time.
template <typename Work>
inline void ForEachRows(size_t rows, const Work& work) {
  size_t row = 0;
  for (; row + kRowsAtOnce <= rows; row += kRowsAtOnce) work.template Run<kRowsAtOnce>(row);
  for (; row < rows; ++row) work.template Run<1>(row);
}

inline RowsIn From(const RowsIn& rows, size_t row) {
  return {rows.data + row * rows.stride, rows.stride};
}

// Up to 16 columns of a matrix, where they are or, if they are fewer, in a copy padded with zeros.
struct Columns {
  const float* data;
  size_t stride;
  size_t width;

  Columns(const float* matrix, size_t rows, size_t all_columns, size_t first, float* copy) {
    width = all_columns - first < kLanes ? all_columns - first : kLanes;
    data = matrix + first;
    stride = all_columns;
    if (width == kLanes) return;
    for (size_t i = 0; i < rows; ++i) {
      Store(copy + i * kLanes, LoadFirst(matrix + i * all_columns + first, width));
    }
    data = copy;
    stride = kLanes;
  }
};

inline Floats Activate(Activation activation, Floats x) {
  switch (activation) {
    case Activation::kTanh:
      return Tanh(x);
    case Activation::kRelu:
      return Max(x, Splat(0));
    case Activation::kSigmoid:
      return Divide(SigmoidRatio(x));
    case Activation::kNone:
      break;
  }
  return x;
}

struct DenseWork {
  const DenseSizes& sizes;
  const RowsIn& x;
  const Columns& columns;
  Floats bias;
  float* y;
  size_t y_stride;

  template <size_t kRows>
  void Run(size_t row) const {
    float* const target = y + row * y_stride;
    Floats sums[kRows];
    for (size_t r = 0; r < kRows; ++r) {
      sums[r] = sizes.accumulate ? LoadFirst(target + r * y_stride, columns.width) : bias;
    }
    MultiplyRows<kRows>(From(x, row), sizes.inputs, columns.data, columns.stride, sums);
    for (size_t r = 0; r < kRows; ++r) {
      const Floats result = sizes.accumulate ? sums[r] : Activate(sizes.activation, sums[r]);
      StoreFirst(target + r * y_stride, result, columns.width);
    }
  }
};

void DenseLayer(const DenseSizes& sizes, size_t rows, const RowsIn& x, const float* weights,
                const float* bias, const RowsOut& y) {
  alignas(64) float copy[kRowWidthMax * kLanes];
  for (size_t first = 0; first < sizes.outputs; first += kLanes) {
    const Columns columns(weights, sizes.inputs, sizes.outputs, first, copy);
    const Floats start = bias == nullptr ? Splat(0) : LoadFirst(bias + first, columns.width);
    ForEachRows(rows, DenseWork{sizes, x, columns, start, y.data + first, y.stride});
  }
}

// Half the sums of the squares of kRows rows, each in all lanes.
template <size_t kRows>
inline void HalfSquares(const RowsIn& x, size_t count, Floats (&halves)[kRows]) {
  for (size_t r = 0; r < kRows; ++r) halves[r] = Splat(0);
  for (size_t i = 0; i < count; ++i) {
    for (size_t r = 0; r < kRows; ++r) {
      const Floats number = Splat(x.data[r * x.stride + i]);
      halves[r] = Fma(number, number, halves[r]);
    }
  }
  for (size_t r = 0; r < kRows; ++r) halves[r] = Splat(0.5F) * halves[r];
}

struct FeatureWork {
  const FeatureMapSizes& sizes;
  const RowsIn& x;
  const Columns& columns;
  Floats bias;
  float* phi;
  size_t phi_stride;

  template <size_t kRows>
  void Run(size_t row) const {
    const RowsIn from = From(x, row);
    Floats sums[kRows];
    for (size_t r = 0; r < kRows; ++r) sums[r] = bias;
    MultiplyRows<kRows>(from, sizes.inputs, columns.data, columns.stride, sums);
    float* const target = phi + row * phi_stride;
    const Floats scale = Splat(sizes.scale);
    if (sizes.shape == FeatureMapShape::kRelu) {
      for (size_t r = 0; r < kRows; ++r) {
        const Floats rectified = Max(sums[r], Splat(0));
        StoreFirst(target + r * phi_stride, Fma(scale, rectified, Splat(sizes.epsilon)),
                   columns.width);
      }
      return;
    }
    Floats halves[kRows];
    HalfSquares<kRows>(from, sizes.inputs, halves);
    for (size_t r = 0; r < kRows; ++r) {
      StoreFirst(target + r * phi_stride, scale * Exp(sums[r] - halves[r]), columns.width);
    }
    if (sizes.shape != FeatureMapShape::kHyperbolic) return;
    for (size_t r = 0; r < kRows; ++r) {
      StoreFirst(target + sizes.features / 2 + r * phi_stride,
                 scale * Exp(Splat(0) - sums[r] - halves[r]), columns.width);
    }
  }
};

inline void EluFeatures(const FeatureMapSizes& sizes, const float* x, float* phi) {
  for (size_t i = 0; i < sizes.inputs; i += kLanes) {
    const size_t width = sizes.inputs - i < kLanes ? sizes.inputs - i : kLanes;
    const Floats v = LoadFirst(x + i, width);
    const Floats below = Exp(Min(v, Splat(0)));
    StoreFirst(phi + i, SelectLess(Splat(0), v, v + Splat(1), below), width);
  }
}

template <size_t kInputMax>
inline void WideDpfpFeatures(const FeatureMapSizes& sizes, const float* x, float* phi) {
  float rectified[2 * kInputMax];
  const size_t count = 2 * sizes.inputs;
  for (size_t i = 0; i < sizes.inputs; ++i) {
    rectified[i] = x[i] > 0 ? x[i] : 0;
    rectified[sizes.inputs + i] = x[i] < 0 ? -x[i] : 0;
  }
  for (size_t shift = 1; shift <= sizes.features / count; ++shift) {
    const size_t turn = shift % count;
    for (size_t k = 0; k < count; ++k) {
      *phi++ = rectified[k] * rectified[k >= turn ? k - turn : k + count - turn];
    }
  }
}

void FeatureMap(const FeatureMapSizes& sizes, size_t rows, const RowsIn& x, const float* weights,
                const float* bias, const RowsOut& phi) {
  if (sizes.shape == FeatureMapShape::kElu || sizes.shape == FeatureMapShape::kDpfp) {
    for (size_t row = 0; row < rows; ++row) {
      const float* const from = x.data + row * x.stride;
      float* const target = phi.data + row * phi.stride;
      if (sizes.shape == FeatureMapShape::kElu) {
        EluFeatures(sizes, from, target);
      } else {
        WideDpfpFeatures<kFeatureCountMax>(sizes, from, target);
      }
    }
    return;
  }
  alignas(64) float copy[kFeatureCountMax * kLanes];
  const size_t count = ProjectionCount(sizes);
  for (size_t first = 0; first < count; first += kLanes) {
    const Columns columns(weights, sizes.inputs, count, first, copy);
    const Floats start = bias == nullptr ? Splat(0) : LoadFirst(bias + first, columns.width);
    ForEachRows(rows, FeatureWork{sizes, x, columns, start, phi.data + first, phi.stride});
  }
}

// x / y where |y| is above kDenominatorMin, else 0.
inline Floats DivideOrZero(Floats x, Floats y) {
  const Floats size = Max(y, Splat(0) - y);
  return SelectLess(Splat(kDenominatorMin), size, x / y, Splat(0));
}

struct AttentionWork {
  const AttentionSizes& sizes;
  const RowsIn& phi_q;
  const float* content;     // [M, 16]: some columns of N, padded.
  const float* normalizer;  // [M, 16]: Psi in all lanes.
  size_t width;             // Of the columns.
  float* out;
  size_t out_stride;

  template <size_t kRows>
  void Run(size_t row) const {
    Floats above[kRows], below[kRows];
    for (size_t r = 0; r < kRows; ++r) above[r] = below[r] = Splat(0);
    MultiplyRows<kRows>(From(phi_q, row), sizes.features, content, kLanes, above);
    MultiplyRows<kRows>(From(phi_q, row), sizes.features, normalizer, kLanes, below);
    for (size_t r = 0; r < kRows; ++r) {
      StoreFirst(out + (row + r) * out_stride, DivideOrZero(above[r], below[r]), width);
    }
  }
};

// One group.
void BidirectionalAttention(const AttentionSizes& sizes, size_t rows, const RowsIn& phi_q,
                            const RowsIn& phi_k, const RowsIn& values, const float* row_weights,
                            const RowsOut& out) {
  alignas(64) float content[kFeatureCountMax * kLanes];
  alignas(64) float normalizer[kFeatureCountMax * kLanes];
  const auto weight_of = [&](size_t j) { return row_weights == nullptr ? 1 : row_weights[j]; };
  for (size_t m = 0; m < sizes.features; ++m) {
    Floats sum = Splat(0);
    for (size_t j = 0; j < rows; ++j) {
      sum = sum + Splat(phi_k.data[j * phi_k.stride + m]) * Splat(weight_of(j));
    }
    Store(normalizer + m * kLanes, sum);
  }
  constexpr size_t kTogether = 4;  // Features whose sums are formed together.
  for (size_t first = 0; first < sizes.width; first += kLanes) {
    const size_t width = sizes.width - first < kLanes ? sizes.width - first : kLanes;
    for (size_t m = 0; m < sizes.features; m += kTogether) {
      const size_t count = sizes.features - m < kTogether ? sizes.features - m : kTogether;
      Floats sums[kTogether] = {Splat(0), Splat(0), Splat(0), Splat(0)};
      for (size_t j = 0; j < rows; ++j) {
        const Floats value = LoadFirst(values.data + j * values.stride + first, width);
        const float* const key = phi_k.data + j * phi_k.stride + m;
        for (size_t k = 0; k < count; ++k) {
          sums[k] = Fma(Splat(key[k]) * Splat(weight_of(j)), value, sums[k]);
        }
      }
      for (size_t k = 0; k < count; ++k) Store(content + (m + k) * kLanes, sums[k]);
    }
    ForEachRows(rows, AttentionWork{sizes, phi_q, content, normalizer, width, out.data + first,
                                    out.stride});
  }
}

// One step of one memory: `value`, `out` and the rows of `content` have D numbers, the others M.
void AdditiveMemoryStep(const AttentionSizes& sizes, float discount, const float* phi_q,
                        const float* phi_k, const float* value, float* content, float* normalizer,
                        float* out) {
  const Floats fade = Splat(discount);
  for (size_t m = 0; m < sizes.features; m += kLanes) {
    const size_t width = sizes.features - m < kLanes ? sizes.features - m : kLanes;
    const Floats sum = Fma(fade, LoadFirst(normalizer + m, width), LoadFirst(phi_k + m, width));
    StoreFirst(normalizer + m, sum, width);
  }
  Floats below = Splat(0);
  for (size_t m = 0; m < sizes.features; ++m) {
    below = Fma(Splat(phi_q[m]), Splat(normalizer[m]), below);
  }
  for (size_t d = 0; d < sizes.width; d += kLanes) {
    const size_t width = sizes.width - d < kLanes ? sizes.width - d : kLanes;
    const Floats v = LoadFirst(value + d, width);
    Floats above = Splat(0);
    for (size_t m = 0; m < sizes.features; ++m) {
      float* const at = content + m * sizes.width + d;
      const Floats number = Fma(Splat(phi_k[m]), v, fade * LoadFirst(at, width));
      StoreFirst(at, number, width);
      above = Fma(Splat(phi_q[m]), number, above);
    }
    StoreFirst(out + d, DivideOrZero(above, below), width);
  }
}

// Features divided by their sum.
inline void NormalizeFeatures(const float* phi, size_t count, float* result) {
  Floats sum = Splat(0);
  for (size_t m = 0; m < count; ++m) sum = sum + Splat(phi[m]);
  for (size_t m = 0; m < count; m += kLanes) {
    const size_t width = count - m < kLanes ? count - m : kLanes;
    StoreFirst(result + m, DivideOrZero(LoadFirst(phi + m, width), sum), width);
  }
}

// As AdditiveMemoryStep.
void DeltaMemoryStep(const AttentionSizes& sizes, float discount, float beta, const float* phi_q,
                     const float* phi_k, const float* value, float* content, float* out) {
  float key[kFeatureCountMax], query[kFeatureCountMax];
  NormalizeFeatures(phi_k, sizes.features, key);
  NormalizeFeatures(phi_q, sizes.features, query);
  const Floats fade = Splat(discount);
  for (size_t d = 0; d < sizes.width; d += kLanes) {
    const size_t width = sizes.width - d < kLanes ? sizes.width - d : kLanes;
    Floats old = Splat(0);
    for (size_t m = 0; m < sizes.features; ++m) {
      float* const at = content + m * sizes.width + d;
      const Floats number = fade * LoadFirst(at, width);
      StoreFirst(at, number, width);
      old = Fma(Splat(key[m]), number, old);
    }
    const Floats change = Splat(beta) * (LoadFirst(value + d, width) - old);
    Floats read = Splat(0);
    for (size_t m = 0; m < sizes.features; ++m) {
      float* const at = content + m * sizes.width + d;
      const Floats number = Fma(Splat(key[m]), change, LoadFirst(at, width));
      StoreFirst(at, number, width);
      read = Fma(Splat(query[m]), number, read);
    }
    StoreFirst(out + d, read, width);
  }
}
