// The loops of flt_table.h. Included by kernel_loops.h, inside its unnamed namespace.

// Rows and vectors of a product that are formed together: as many sums as the registers hold.
#if defined(__AVX512F__)
constexpr size_t kProductRows = 8, kProductVectors = 2;
#elif defined(__AVX2__)
constexpr size_t kProductRows = 6, kProductVectors = 1;
#else
constexpr size_t kProductRows = 2, kProductVectors = 1;
#endif

template <size_t kRows, size_t kVectors>
inline void ProductTile(const MatrixProduct& p, size_t row, size_t column) {
  float* const c = p.c + row * p.c_stride + column;
  Floats sums[kRows][kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = p.accumulate ? Load(c + r * p.c_stride + v * kLanes) : Splat(0);
    }
  }
  const float* a = p.a + row * p.a_row;
  const float* b = p.b + column;
  for (size_t i = 0; i < p.inner; ++i, a += p.a_inner, b += p.b_stride) {
    Floats columns[kVectors];
    for (size_t v = 0; v < kVectors; ++v) columns[v] = Load(b + v * kLanes);
    for (size_t r = 0; r < kRows; ++r) {
      const Floats factor = Splat(a[r * p.a_row]);
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = Fma(factor, columns[v], sums[r][v]);
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) Store(c + r * p.c_stride + v * kLanes, sums[r][v]);
  }
}

template <size_t kVectors>
inline void ProductColumns(const MatrixProduct& p, size_t column) {
  size_t row = 0;
  for (; row + kProductRows <= p.rows; row += kProductRows) {
    ProductTile<kProductRows, kVectors>(p, row, column);
  }
  for (; row + 2 <= p.rows; row += 2) ProductTile<2, kVectors>(p, row, column);
  if (row < p.rows) ProductTile<1, kVectors>(p, row, column);
}

void Multiply(const MatrixProduct& p) {
  size_t column = 0;
  for (; column + kProductVectors * kLanes <= p.columns; column += kProductVectors * kLanes) {
    ProductColumns<kProductVectors>(p, column);
  }
  for (; column < p.columns; column += kLanes) ProductColumns<1>(p, column);
}

size_t ScaleAndCount(size_t rows, size_t columns, float scale, Matrix x) {
  const Floats factor = Splat(scale);
  int bad = 0;
  for (size_t r = 0; r < rows; ++r) {
    float* const row = x.data + r * x.stride;
    for (size_t c = 0; c < columns; c += kLanes) {
      const Floats number = Load(row + c);
      bad += CountNonFinite(number);
      Store(row + c, factor * number);
    }
  }
  return static_cast<size_t>(bad);
}

inline Floats Magnitude(Floats x) { return Max(x, Splat(0) - x); }

// x less the nearest whole number; exact.
inline Floats DropTurns(Floats x) {
  const Floats whole = Splat(8388608);  // 2^23: numbers above it have no digits behind the point.
  const Floats size = Magnitude(x);
  const Floats rest = size - SelectLess(size, whole, (size + whole) - whole, size);
  return SelectLess(x, Splat(0), Splat(0) - rest, rest);
}

// a b - product, where product is a * b rounded; exact.
inline Floats ProductError(Floats a, Floats b, Floats product) {
#if defined(__FMA__) || defined(__AVX512F__)
  return Fma(a, b, Splat(0) - product);
#else
  // Source: Dekker 1971, halves of 12 bits.
  const Floats split = Splat(4097);
  const Floats a_up = split * a, b_up = split * b;
  const Floats a_high = a_up - (a_up - a), b_high = b_up - (b_up - b);
  const Floats a_low = a - a_high, b_low = b - b_high;
  return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#endif
}

// cos and sin of 2 pi t, to 1e-7, for |t| <= 1/2.
// Reference: Moshier, Cephes, sinf and cosf.
inline void CosineAndSine(Floats t, Floats* cosine, Floats* sine) {
  const Floats round = Splat(12582912);  // 1.5 2^23
  const Floats quarter = Fma(t, Splat(4), round) - round;
  const Floats x = (t - Splat(0.25F) * quarter) * Splat(6.28318531F);
  const Floats z = x * x;
  Floats s = Splat(-1.9515295891e-4F);
  s = Fma(s, z, Splat(8.3321608736e-3F));
  s = Fma(s, z, Splat(-1.6666654611e-1F));
  s = Fma(s * z, x, x);
  Floats c = Splat(2.443315711809948e-5F);
  c = Fma(c, z, Splat(-1.388731625493765e-3F));
  c = Fma(c, z, Splat(4.166664568298827e-2F));
  c = Fma(c * z, z, Fma(Splat(-0.5F), z, Splat(1)));
  const Floats distance = Magnitude(Magnitude(quarter) - Splat(1));  // 0 in odd quarters, else 1.
  const Floats half = Splat(0.5F);
  const Floats along = SelectLess(distance, half, s, c);
  const Floats across = SelectLess(distance, half, c, s);
  const Floats zero = Splat(0);
  Floats sign_c = SelectLess(half, quarter, zero - along, along);
  sign_c = SelectLess(quarter, Splat(-1.5F), zero - along, sign_c);
  Floats sign_s = SelectLess(quarter, Splat(-0.5F), zero - across, across);
  sign_s = SelectLess(Splat(1.5F), quarter, zero - across, sign_s);
  *cosine = sign_c;
  *sine = sign_s;
}

// Turns xi . r of 16 waves from m on, less whole ones but for a few.
inline Floats TurnsAt(const WaveRows& w, const float* position, size_t m) {
  Floats turns = Splat(0);
  for (size_t axis = 0; axis < w.dimensions; ++axis) {
    const Floats xi = Load(w.frequencies + axis * w.wave_stride + m);
    const Floats at = Splat(position[axis]);
    const Floats product = xi * at;
    const Floats error = ProductError(xi, at, product);
    turns = turns + (DropTurns(product) + DropTurns(error));
  }
  return turns;
}

void Waves(const WaveRows& w) {
  for (size_t m = 0; m < w.waves; m += kLanes) {
    const Floats start = TurnsAt(w, w.origin, m);
    const Floats a = Load(w.a + m), b = Load(w.b + m);
    const size_t count = w.waves - m < kLanes ? w.waves - m : kLanes;
    for (size_t r = 0; r < w.rows; ++r) {
      const Floats turns = TurnsAt(w, w.positions + r * w.dimensions, m);
      Floats cosine, sine;
      CosineAndSine(DropTurns(turns - start), &cosine, &sine);
      StoreFirst(w.first + r * w.stride + m, Fma(a, cosine, b * sine), count);
      StoreFirst(w.second + r * w.stride + m, a * sine - b * cosine, count);
    }
  }
}

// The sums of products of 16 rows x with rows y, or with one row if y_stride is 0.
inline Floats SixteenDots(size_t rows, size_t columns, const Matrix& x, const float* y,
                          size_t y_stride) {
  alignas(64) float dots[kLanes];
  for (size_t first = 0; first < kLanes; first += 4) {
    Floats sums[4];
    for (size_t k = 0; k < 4; ++k) {
      const size_t r = first + k;
      sums[k] = Splat(0);
      if (r >= rows) continue;
      for (size_t c = 0; c < columns; c += kLanes) {
        sums[k] = Fma(Load(x.data + r * x.stride + c), Load(y + r * y_stride + c), sums[k]);
      }
    }
    SumLanes(sums[0], sums[1], sums[2], sums[3], dots + first);
  }
  return Load(dots);
}

void RowDots(size_t rows, size_t columns, Matrix x, const float* y, size_t y_stride, float* dots) {
  for (size_t r = 0; r < rows; r += kLanes) {
    const size_t count = rows - r < kLanes ? rows - r : kLanes;
    const Matrix part = {x.data + r * x.stride, x.stride};
    StoreFirst(dots + r, SixteenDots(count, columns, part, y + r * y_stride, y_stride), count);
  }
}

inline void ExponentialFeatures(const FeatureRows& f, size_t row, Floats half_square) {
  const float* const logits = f.logits.data + row * f.logits.stride;
  float* const out = f.features.data + row * f.features.stride;
  const size_t count = ProjectionCount(f.sizes);
  for (size_t m = 0; m < count; m += kLanes) {
    const size_t width = count - m < kLanes ? count - m : kLanes;
    Floats x = Load(logits + m) - half_square;
    if (f.bias != nullptr) x = x + Load(f.bias + m);
    StoreFirst(out + m, x, width);
    if (f.sizes.shape == FeatureMapShape::kHyperbolic) {
      StoreFirst(out + count + m, Splat(0) - Load(logits + m) - half_square, width);
    }
  }
  for (size_t m = f.sizes.features; m < f.columns; ++m) out[m] = kFltNoKey;
}

inline void ReluFeatures(const FeatureRows& f, size_t row) {
  const float* const logits = f.logits.data + row * f.logits.stride;
  float* const out = f.features.data + row * f.features.stride;
  const Floats scale = Splat(f.sizes.scale), epsilon = Splat(f.sizes.epsilon);
  for (size_t m = 0; m < f.columns; m += kLanes) {
    Store(out + m, Fma(scale, Max(Load(logits + m), Splat(0)), epsilon));
  }
  for (size_t m = f.sizes.features; m < f.columns; ++m) out[m] = 0;
}

// EluFeatures and DpfpFeatures are those of row_loops.h, but for their bounds.
inline void DirectFeatures(const FeatureRows& f, size_t row) {
  const float* const x = f.x.data + row * f.x.stride;
  float* const out = f.features.data + row * f.features.stride;
  for (size_t m = 0; m < f.columns; ++m) out[m] = 0;
  if (f.sizes.shape == FeatureMapShape::kElu) return EluFeatures(f.sizes, x, out);
  WideDpfpFeatures<kFltInputMax>(f.sizes, x, out);
}

void Features(const FeatureRows& f) {
  if (f.sizes.shape == FeatureMapShape::kElu || f.sizes.shape == FeatureMapShape::kDpfp) {
    for (size_t r = 0; r < f.rows; ++r) DirectFeatures(f, r);
    return;
  }
  if (f.sizes.shape == FeatureMapShape::kRelu) {
    for (size_t r = 0; r < f.rows; ++r) ReluFeatures(f, r);
    return;
  }
  const size_t inputs = (f.sizes.inputs + kLanes - 1) / kLanes * kLanes;
  for (size_t first = 0; first < f.rows; first += kLanes) {
    const size_t count = f.rows - first < kLanes ? f.rows - first : kLanes;
    const Matrix part = {f.x.data + first * f.x.stride, f.x.stride};
    alignas(64) float squares[kLanes];
    Store(squares, SixteenDots(count, inputs, part, part.data, part.stride));
    for (size_t r = 0; r < count; ++r) {
      ExponentialFeatures(f, first + r, Splat(0.5F * squares[r]));
    }
  }
}

void ColumnMaxima(size_t rows, size_t columns, Matrix x, float* maxima) {
  for (size_t c = 0; c < columns; c += kLanes) {
    Floats most = Load(maxima + c);
    for (size_t r = 0; r < rows; ++r) most = Max(most, Load(x.data + r * x.stride + c));
    Store(maxima + c, most);
  }
}

inline Floats FlushedExp(Floats x) { return SelectLess(Splat(-87), x, Exp(x), Splat(0)); }

void Exponentials(size_t rows, size_t columns, Matrix x, const float* shifts) {
  for (size_t r = 0; r < rows; ++r) {
    float* const row = x.data + r * x.stride;
    for (size_t c = 0; c < columns; c += kLanes) {
      Store(row + c, FlushedExp(Load(row + c) - Load(shifts + c)));
    }
  }
}

void RowExponentials(size_t rows, size_t columns, Matrix x, const float* shifts, float* maxima) {
  for (size_t r = 0; r < rows; ++r) {
    float* const row = x.data + r * x.stride;
    Floats most = Splat(3 * kFltNoKey);
    for (size_t c = 0; c < columns; c += kLanes) {
      const Floats shifted = Load(row + c) + Load(shifts + c);
      Store(row + c, shifted);
      most = Max(most, shifted);
    }
    alignas(64) float lanes[kLanes];
    Store(lanes, most);
    float all = lanes[0];
    for (size_t i = 1; i < kLanes; ++i) all = lanes[i] > all ? lanes[i] : all;
    maxima[r] = all;
    for (size_t c = 0; c < columns; c += kLanes) {
      Store(row + c, FlushedExp(Load(row + c) - Splat(all)));
    }
  }
}

void ShiftRows(size_t rows, size_t columns, Matrix x, const float* shifts) {
  for (size_t r = 0; r < rows; ++r) {
    float* const row = x.data + r * x.stride;
    for (size_t c = 0; c < columns; c += kLanes) Store(row + c, Load(row + c) - Splat(shifts[r]));
  }
}

void ColumnSums(size_t rows, size_t columns, Matrix x, float* sums) {
  for (size_t c = 0; c < columns; c += kLanes) {
    Floats part = Splat(0);
    for (size_t r = 0; r < rows; ++r) part = part + Load(x.data + r * x.stride + c);
    Store(sums + c, Load(sums + c) + part);
  }
}

void ScaleRows(size_t rows, size_t columns, Matrix x, const float* factors, Matrix y) {
  for (size_t r = 0; r < rows; ++r) {
    const Floats factor = Splat(factors[r]);
    for (size_t c = 0; c < columns; c += kLanes) {
      Store(y.data + r * y.stride + c, factor * Load(x.data + r * x.stride + c));
    }
  }
}

void MultiplyElements(size_t rows, size_t columns, Matrix x, Matrix y) {
  for (size_t r = 0; r < rows; ++r) {
    float* const row = x.data + r * x.stride;
    for (size_t c = 0; c < columns; c += kLanes) {
      Store(row + c, Load(row + c) * Load(y.data + r * y.stride + c));
    }
  }
}

void AddScaledRows(size_t rows, size_t columns, const float* factors, Matrix y, Matrix x) {
  for (size_t r = 0; r < rows; ++r) {
    float* const row = x.data + r * x.stride;
    const Floats factor = Splat(factors[r]);
    for (size_t c = 0; c < columns; c += kLanes) {
      Store(row + c, Fma(factor, Load(y.data + r * y.stride + c), Load(row + c)));
    }
  }
}

constexpr FltTable kFltTable = {
    Multiply,  ScaleAndCount, Waves,   Features,  ColumnMaxima,     Exponentials, RowExponentials,
    ShiftRows, ColumnSums,    RowDots, ScaleRows, MultiplyElements, AddScaledRows};
