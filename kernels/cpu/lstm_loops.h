// The LSTM step of lstm_sizes.h for 16 elements at a time: a vector's lanes are elements, so that
// every weight is one broadcast. Included by kernel_loops.h, inside its unnamed namespace.

// Units whose gates are summed together: as many as the registers hold.
#if defined(__AVX512F__)
constexpr size_t kUnitsAtOnce = 2;
#else
constexpr size_t kUnitsAtOnce = 1;
#endif
constexpr size_t kGates = 4;

// Up to 16 elements at work.
struct LstmTile {
  const LstmSizes& sizes;
  const size_t width;  // Elements.
  float* const hidden;
  float* const cell;
  // What comes into a layer: from below, then from itself. A row is 16 lanes.
  alignas(64) float inputs[2 * kLstmHiddenMax][kLanes];
  alignas(64) float outputs[kLstmHiddenMax][kLanes];

  LstmTile(const LstmSizes& all_sizes, size_t elements, float* hidden_tile, float* cell_tile)
      : sizes(all_sizes), width(elements), hidden(hidden_tile), cell(cell_tile) {}

  // Sums the gates of kUnits units from `first` on, and advances their cells.
  template <size_t kUnits>
  void AdvanceUnits(const float* weights, size_t input_count, size_t layer, size_t first) {
    const size_t stride = kGates * (1 + input_count);  // Weights of a unit.
    const float* const w = weights + first * stride;
    Floats gates[kUnits][kGates];
    for (size_t u = 0; u < kUnits; ++u) {
      for (size_t g = 0; g < kGates; ++g) gates[u][g] = Splat(w[u * stride + g]);
    }
    for (size_t i = 0; i < input_count; ++i) {
      const Floats x = Load(inputs[i]);
      for (size_t u = 0; u < kUnits; ++u) {
        const float* const row = w + u * stride + kGates * (1 + i);
        for (size_t g = 0; g < kGates; ++g) gates[u][g] = Fma(Splat(row[g]), x, gates[u][g]);
      }
    }
    for (size_t u = 0; u < kUnits; ++u) {
      float* const memory = cell + (layer * sizes.hidden + first + u) * width;
      const Ratio enter = SigmoidRatio(gates[u][0]), value = TanhRatio(gates[u][3]);
      const Floats kept = Divide(SigmoidRatio(gates[u][1])) * LoadFirst(memory, width);
      const Floats c = kept + Divide({enter.above * value.above, enter.below * value.below});
      StoreFirst(memory, c, width);
      const Ratio leave = SigmoidRatio(gates[u][2]), shown = TanhRatio(c);
      Store(outputs[first + u], Divide({leave.above * shown.above, leave.below * shown.below}));
    }
  }

  // Runs a layer whose inputs from below are in place; its outputs become inputs. Returns the
  // weights behind those of the layer.
  const float* AdvanceLayer(const float* weights, size_t layer) {
    const size_t count = sizes.hidden;
    const size_t input_count = LstmInputCount(sizes, layer);
    float* const own = hidden + layer * count * width;
    for (size_t u = 0; u < count; ++u) {
      Store(inputs[input_count - count + u], LoadFirst(own + u * width, width));
    }
    size_t u = 0;
    for (; u + kUnitsAtOnce <= count; u += kUnitsAtOnce) {
      AdvanceUnits<kUnitsAtOnce>(weights, input_count, layer, u);
    }
    for (; u < count; ++u) AdvanceUnits<1>(weights, input_count, layer, u);
    for (u = 0; u < count; ++u) {
      const Floats output = Load(outputs[u]);
      StoreFirst(own + u * width, output, width);
      Store(inputs[u], output);
    }
    return weights + kGates * count * (1 + input_count);
  }

  // The read-out of the last layer's hidden values.
  Floats ReadOut(const float* weights) const {
    const size_t count = sizes.hidden;
    const float* const last = hidden + (sizes.layers - 1) * count * width;
    Floats sum = Splat(weights[count]);
    for (size_t u = 0; u < count; ++u) {
      sum = Fma(Splat(weights[u]), LoadFirst(last + u * width, width), sum);
    }
    return sizes.normalized ? Tanh(sum) : sum;
  }
};

// Writes the features of gradients `d` to `inputs`; returns the weights behind the input layer's.
inline const float* RnnPropFeatures(const LstmSizes& sizes, const float* weights, float mass,
                                    Floats d, float* mean_at, float* square_at, size_t width,
                                    float (*inputs)[kLanes]) {
  const Floats m = Splat(mass);
  Floats mean = LoadFirst(mean_at, width), square = LoadFirst(square_at, width);
  mean = mean + (d - mean) / m;
  square = square + (d * d - square) / m;
  StoreFirst(mean_at, mean, width);
  StoreFirst(square_at, square, width);
  const Floats root = Sqrt(square) + Splat(kLstmRootEpsilon);
  const Floats first = d / root, second = mean / root;
  for (size_t u = 0; u < sizes.hidden; ++u) {
    const float* const w = weights + 3 * u;
    Store(inputs[u], Elu(Fma(Splat(w[1]), second, Fma(Splat(w[0]), first, Splat(w[2])))));
  }
  return weights + 3 * sizes.hidden;
}

inline void LogAndSign(Floats d, float (*inputs)[kLanes]) {
  const Floats zero = Splat(0), one = Splat(1), small = Splat(kLstmSmall);
  const Floats size = Max(d, zero - d);
  const Floats log = Log(Max(size, small)) / Splat(kLstmLogSpan);
  Store(inputs[0], SelectLess(size, small, zero - one, log));
  const Floats sign = SelectLess(d, zero, zero - one, one);
  Store(inputs[1], SelectLess(size, small, Splat(kLstmSmallScale) * d, sign));
}

double LstmStep(const LstmSizes& sizes, const LstmCoefficients& c, const float* weights,
                bool replay, size_t count, float* values, float* hidden, float* cell, float* mean,
                float* square) {
  const size_t numbers = LstmStateCount(sizes);
  const float* const read_out = weights + LstmWeightCount(sizes) - sizes.hidden - 1;
  const Floats limit = Splat(kLstmGradientMax);
  SquareSum sum;
  for (size_t i = 0; i < count; i += kLanes) {
    const size_t width = count - i < kLanes ? count - i : kLanes;
    LstmTile tile(sizes, width, hidden + i * numbers, cell + i * numbers);
    if (!replay) {
      const Floats scaled = Splat(c.gradient_scale) * LoadFirst(values + i, width);
      const Floats d = Max(Min(scaled, limit), Splat(0) - limit);
      const float* next = weights;
      if (sizes.normalized) {
        next = RnnPropFeatures(sizes, weights, c.mass, d, mean + i, square + i, width, tile.inputs);
      } else {
        LogAndSign(d, tile.inputs);
      }
      for (size_t layer = 0; layer < sizes.layers; ++layer) next = tile.AdvanceLayer(next, layer);
    }
    const Floats update = Splat(-c.output_scale) * tile.ReadOut(read_out);
    StoreFirst(values + i, update, width);
    if (width == kLanes) {
      sum.Add(update);
    } else {
      AddFirst(sum, update, width);
    }
  }
  return Total(sum);
}
