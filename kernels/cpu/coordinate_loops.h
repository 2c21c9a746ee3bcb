// The coordinate-wise step of coordinate_sizes.h for 16 coordinates at a time: a vector's lanes are
// coordinates, so that every weight is one broadcast. Included by kernel_loops.h, inside its
// unnamed namespace, after cell_loops.h, whose maps of 16 cells are maps of 16 coordinates
// here.

inline Floats Clamp(Floats x, float least, float most) {
  return Max(Min(x, Splat(most)), Splat(least));
}

inline Floats ScaledGradient(const CoordinateTensor& tensor, const float* values, size_t width) {
  return Clamp(Splat(tensor.gradient_scale) * LoadFirst(values, width), -kCoordinateGradientMax,
               kCoordinateGradientMax);
}

// A quarter of the logarithm of a square, clipped to [-2, 2].
inline Floats HalfLog(Floats square) {
  return Splat(0.25F) * Log(Clamp(square, kCoordinateLogSquareMin, kCoordinateLogSquareMax));
}

// Takes the gradients of a run in; needs neither S nor q^.
void CoordinateMoments(const CoordinateRun& run) {
  const CoordinateTensor& tensor = *run.tensor;
  const auto write = [](float* at, Floats value, float mass, size_t width) {
    const Floats old = LoadFirst(at, width);
    StoreFirst(at, old + (value - old) / Splat(mass), width);
  };
  for (size_t i = 0; i < run.count; i += kLanes) {
    const size_t width = run.count - i < kLanes ? run.count - i : kLanes;
    const Floats d = ScaledGradient(tensor, run.values + i, width);
    write(run.fast + i, d, tensor.mass_fast, width);
    write(run.slow + i, d, tensor.mass_slow, width);
    write(run.square + i, d * d, tensor.mass_square, width);
  }
}

// Up to 16 coordinates at work.
struct CoordinateTile {
  const CoordinateModel& model;
  const CoordinateSizes& sizes;
  const float* next;   // Weights that are not used yet.
  const size_t width;  // Coordinates.

  Floats adam;
  Floats log_step;
  Floats directions[kCoordinateDirectionCount];
  // Arrays of n numbers a coordinate are [n, 16]. The features, then what is read of the memory:
  alignas(64) float inputs[(kCoordinateFeatureCount + kCoordinateHeadsMax * kCoordinateWidthMax) *
                           kLanes];
  alignas(64) float joined[3 * kCoordinateWidthMax * kLanes];  // Query, key, value.
  alignas(64) float phi_q[kCoordinateWidthMax * kLanes];
  alignas(64) float phi_k[kCoordinateWidthMax * kLanes];
  alignas(64) float hidden[kCoordinateHiddenMax * kLanes];
  alignas(64) float decision[kCoordinateDecisionCount * kLanes];

  CoordinateTile(const CoordinateModel& all, const float* weights, size_t coordinates)
      : model(all), sizes(all.sizes), next(weights), width(coordinates) {}

  const float* Take(size_t count) {
    const float* const taken = next;
    next += count;
    return taken;
  }

  // What coordinates `i` and on of a run know of their gradients.
  void ReadMoments(const CoordinateRun& run, size_t i) {
    const bool alive = run.mean_square > 0;
    const Floats zero = Splat(0), one = Splat(1);
    const Floats epsilon = Splat(model.knobs.epsilon);
    const Floats mean = Splat(alive ? run.mean_square : 1), unit = Sqrt(mean);
    const Floats d = ScaledGradient(*run.tensor, run.values + i, width);
    const Floats fast = LoadFirst(run.fast + i, width) / unit;
    const Floats slow = LoadFirst(run.slow + i, width) / unit;
    const Floats ratio =
        Clamp(LoadFirst(run.square + i, width) / mean, kCoordinateRatioMin, kCoordinateRatioMax);
    const Floats factored =
        Clamp(LoadFirst(run.factored + i, width), kCoordinateRatioMin, kCoordinateRatioMax);
    log_step = LoadFirst(run.log_step + i, width);

    const Floats root = Sqrt(ratio) + epsilon;
    const Floats novelty = d / unit / root;
    adam = fast / root;
    const Floats all[] = {adam, novelty, slow / root, fast / (Sqrt(factored) + epsilon)};
    const auto put = [&](size_t k, Floats feature) { Store(inputs + k * kLanes, feature); };
    put(0, HalfLog(novelty * novelty));
    put(1, SelectLess(d, zero, zero - one, SelectLess(zero, d, one, zero)));
    for (size_t k = 0; k < kCoordinateDirectionCount; ++k) {
      directions[k] = Clamp(all[k], -kCoordinateDirectionMax, kCoordinateDirectionMax);
      put(2 + k, Splat(0.5F) * directions[k]);
    }
    put(6, Clamp(novelty * adam, -kCoordinateDirectionMax, kCoordinateDirectionMax));
    put(7, alive ? HalfLog(ratio) : zero);
    put(8, alive ? HalfLog(factored) : zero);
    put(9, Splat(0.25F) * log_step);
  }

  // Writes one head's token to its memory and reads it back to `recalled`.
  void Recall(float discount, float* mass, float* content, float* recalled) const {
    const Floats fade = Splat(discount);
    const size_t count = sizes.value_width;
    const float* const value = joined + 2 * sizes.key_width * kLanes;
    Floats below = Splat(0);
    for (size_t m = 0; m < sizes.map.features; ++m) {
      float* const at = mass + m * width;
      const Floats psi = Fma(fade, LoadFirst(at, width), Load(phi_k + m * kLanes));
      StoreFirst(at, psi, width);
      below = Fma(Load(phi_q + m * kLanes), psi, below);
    }
    for (size_t k = 0; k < count; ++k) {
      const Floats v = Load(value + k * kLanes);
      Floats above = Splat(0);
      for (size_t m = 0; m < sizes.map.features; ++m) {
        float* const at = content + (m * count + k) * width;
        const Floats number = Fma(Load(phi_k + m * kLanes), v, fade * LoadFirst(at, width));
        StoreFirst(at, number, width);
        above = Fma(Load(phi_q + m * kLanes), number, above);
      }
      const Floats read = DivideOrZero(above, below);
      Store(recalled + k * kLanes, Splat(model.knobs.gate_cam) * read);
    }
  }

  void RunMemory(float* content, float* mass) {
    const size_t outputs = CoordinateHeadWidth(sizes), features = sizes.map.features;
    const float* const w = Take(kCoordinateFeatureCount * outputs);
    MapCells(w, Take(outputs), kCoordinateFeatureCount, outputs, outputs, inputs, joined);
    float* const key = joined + sizes.key_width * kLanes;
    BoundCells(sizes.key_width, joined, joined);
    BoundCells(sizes.key_width, key, key);
    for (size_t head = 0; head < sizes.heads; ++head) {
      MapWeights map;
      map.w = Take(CoordinateProjectionCount(sizes));
      if (sizes.map_bias) map.b = Take(features);
      CellFeatures(sizes.map, map, joined, phi_q);
      CellFeatures(sizes.map, map, key, phi_k);
      Recall(model.discounts[head], mass + head * features * width,
             content + head * features * sizes.value_width * width,
             inputs + (kCoordinateFeatureCount + head * sizes.value_width) * kLanes);
    }
  }

  // The update, for a step size at a zero decoder of `prior`.
  Floats Decide(const float* told, float prior) {
    const CoordinateKnobs& knobs = model.knobs;
    const size_t input_count = CoordinateInputCount(sizes), count = sizes.hidden;
    MapCells(Take(input_count * count), told, input_count, count, count, inputs, hidden);
    for (size_t k = 0; k < count; ++k) Store(hidden + k * kLanes, Tanh(Load(hidden + k * kLanes)));
    const float* const out = Take(count * kCoordinateDecisionCount);
    MapOutputs<1, kCoordinateDecisionCount>(out, Take(kCoordinateDecisionCount), count,
                                            kCoordinateDecisionCount, {hidden, 0}, {decision, 0});

    const Floats wanted = Splat(2) * Load(decision);
    const Floats low = Splat(knobs.eta_low), high = Splat(knobs.eta_high);
    const Floats bent =
        SelectLess(wanted, Splat(0), low * Tanh(wanted / low), high * Tanh(wanted / high));
    const Floats change = Splat(knobs.eta_smoothing) * (Splat(knobs.eta_temper) * bent - log_step);
    log_step = log_step + Min(change, Splat(knobs.eta_rise));
    Floats correction = Splat(0);
    for (size_t k = 0; k < kCoordinateDirectionCount; ++k) {
      const Floats weight = Splat(knobs.correction) * Tanh(Load(decision + (1 + k) * kLanes));
      correction = Fma(weight, directions[k], correction);
    }
    return Splat(-prior) * Exp(log_step) * (adam + correction);
  }
};

double CoordinateStep(const CoordinateModel& model, const float* weights, bool replay,
                      const CoordinateRun& run) {
  const size_t contents = CoordinateContentCount(model.sizes);
  const size_t masses = CoordinateMassCount(model.sizes);
  SquareSum sum;
  for (size_t i = 0; i < run.count; i += kLanes) {
    const size_t width = run.count - i < kLanes ? run.count - i : kLanes;
    if (!replay) {
      CoordinateTile tile(model, weights, width);
      tile.ReadMoments(run, i);
      tile.RunMemory(run.content + i * contents, run.mass + i * masses);
      StoreFirst(run.update + i, tile.Decide(run.told, run.tensor->prior_step), width);
      StoreFirst(run.log_step + i, tile.log_step, width);
    }
    const Floats update = LoadFirst(run.update + i, width);
    StoreFirst(run.values + i, update, width);
    sum.Add(update);  // Lanes beyond the last coordinate are 0.
  }
  return Total(sum);
}
