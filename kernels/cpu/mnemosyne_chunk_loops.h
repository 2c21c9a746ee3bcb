// The passes of the flagship over one chunk: its coordinates and cells before the chunk has
// decided, and its coordinates after. Included by kernel_loops.h, inside its unnamed namespace,
// after cell_loops.h and mnemosyne_coordinates.h.
//
// Coordinates are read in vectors of a cell. What is computed for cells has cells in the lanes.

// Features of keys whose contents are formed together.
#if defined(__AVX512F__)
constexpr size_t kContentsAtOnce = 16;
#else
constexpr size_t kContentsAtOnce = 4;
#endif

// One chunk at work, number `slot` of its batch.
struct ChunkWork {
  const MnemosyneSizes& sizes;
  const MnemosyneKnobs& knobs;
  const MnemosyneWeights& weights;
  const MnemosyneChunkStep& at;
  MnemosyneChoice& choice;
  const MnemosyneScratch& layout;
  float* const scratch;
  float* const smooths;  // [cells, cell_stride]: r1 / root(s).
  const Coordinates x;
  const size_t groups;

  ChunkWork(const MnemosyneModel& model, const MnemosyneScratch& places,
            const MnemosyneChunkStep& step, size_t slot, float* workspace)
      : sizes(model.sizes),
        knobs(model.knobs),
        weights(model.weights),
        at(step),
        choice(*step.choice),
        layout(places),
        scratch(workspace),
        smooths(workspace + places.smooth + slot * places.coordinates),
        x(model.sizes, places, step, workspace + places.packed),
        groups((x.cells + kLanes - 1) / kLanes) {}

  size_t CellsOf(size_t group) const {
    const size_t left = x.cells - group * kLanes;
    return left < kLanes ? left : kLanes;
  }
  float* Sums(size_t group) const { return scratch + layout.sums + group * kCellSumCount * kLanes; }
  // Rows of `count` numbers a cell, from group `first` on, and rows that only a tile has.
  CellRows Rows(size_t place, size_t count, size_t first = 0) const {
    const size_t step = count * kLanes;
    return {scratch + place + first * step, step};
  }
  CellRows Tokens(size_t group) const { return Rows(layout.tokens, sizes.cell_width, group); }
  CellRows Queries(size_t group) const {
    return Rows(layout.queries, sizes.cell_map.features, group);
  }
  float* Mass() const { return scratch + layout.mass; }

  // Calls run(group) by tiles of kGroupsAtOnce groups, and of one where fewer are left.
  template <typename Run>
  void ForEachTile(const Run& run) const {
    size_t group = 0;
    if constexpr (kGroupsAtOnce > 1) {
      for (; group + kGroupsAtOnce <= groups; group += kGroupsAtOnce) {
        run.template operator()<kGroupsAtOnce>(group);
      }
    }
    for (; group < groups; ++group) run.template operator()<1>(group);
  }

  // s as it takes in the gradient `g` of 16 coordinates.
  Floats WithSquare(Floats g, Floats s) const {
    return Fma(g * g - s, Splat(at.step->rate_square), s);
  }

  // Of a state of 16 bits, before all else: s takes in the gradient and is rounded, which takes its
  // greatest number.
  void WriteRoundedSquares() const {
    const Floats scale = Splat(at.step->gradient_scale);
    for (size_t cell = 0; cell < x.cells; ++cell) {
      const float* const values = x.At(x.values, cell);
      float* const squares = x.At(x.square, cell);
      for (size_t i = 0; i < x.stride; i += kLanes) {
        Store(squares + i, WithSquare(Clamped(Load(values + i), scale), Load(squares + i)));
      }
    }
    RoundSquares();
  }

  void RoundSquares() const {
    const MnemosyneRounding& rounding = *at.rounding;
    float largest = 0;
    for (size_t cell = 0; cell < x.cells; ++cell) {
      const float* const squares = x.At(x.square, cell);
      for (size_t i = 0; i < x.SizeOf(cell); ++i) {
        largest = squares[i] > largest ? squares[i] : largest;
      }
    }
    const float inverse_scale = InverseRootScale(largest);
    *rounding.inverse_scale = inverse_scale;
    const Floats factor = Splat(inverse_scale);
    alignas(64) float roots[kLanes], rounded[kLanes];
    for (size_t cell = 0; cell < x.cells; ++cell) {
      float* const squares = x.At(x.square, cell);
      const size_t size = x.SizeOf(cell), start = cell * x.cell_size;
      for (size_t i = 0; i < size; i += kLanes) {
        const size_t width = size - i < kLanes ? size - i : kLanes;
        const auto position = static_cast<uint32_t>(rounding.first + start + i);
        uint16_t packed[kLanes];
        Store(roots, Sqrt(Load(squares + i)) * factor);
        for (uint32_t k = 0; k < kLanes; ++k) {
          packed[k] = PackHalf(roots[k], RandomBits(rounding.key, position + k));
          rounded[k] = UnpackSquare(packed[k], inverse_scale);
        }
        for (size_t k = 0; k < width; ++k) rounding.roots[start + i + k] = packed[k];
        // Beyond the cell's end are zeros, which rounding may have lifted.
        Store(squares + i, LoadFirst(rounded, width));
      }
    }
  }

  // A memory that takes the numbers of 16 coordinates from position `i` of a cell on, rounded by
  // random(position).
  template <typename Random>
  Floats Rounded(Floats number, const Random& random, size_t cell, size_t i) const {
    alignas(64) float lanes[kLanes];
    const auto position = static_cast<uint32_t>(at.rounding->first + cell * x.cell_size + i);
    Store(lanes, number);
    for (uint32_t k = 0; k < kLanes; ++k) lanes[k] = RoundToBrain(lanes[k], random(position + k));
    const size_t size = x.SizeOf(cell);
    return LoadFirst(lanes, size < i ? 0 : size - i < kLanes ? size - i : kLanes);
  }

  Floats RoundedFast(Floats number, size_t cell, size_t i) const {
    const uint32_t key = at.rounding->key;
    return Rounded(
        number, [key](uint32_t position) { return RandomBits(key, position); }, cell, i);
  }
  Floats RoundedSlow(Floats number, size_t cell, size_t i) const {
    const uint32_t key = at.rounding->slow_key;
    return Rounded(
        number, [key](uint32_t position) { return RandomHalf(key, position); }, cell, i);
  }

  // First pass: s and r1 take in the gradient; statistics of cells, and their means to `means`
  // [12]. It leaves the unbounded direction in `values`, and Adam's in the workspace.
  void MeasureDirections(float* means) {
    choice.floor = knobs.epsilon * ScalarSqrt(choice.mean_square);
    if (at.rounding == nullptr) {
      AddUpCells<false>();
    } else {
      WriteRoundedSquares();
      AddUpCells<true>();
    }
    AverageSums(means);
    const float rms = ScalarSqrt(means[kSharp2]);
    choice.sharp_scale = knobs.write_limit / (rms > knobs.write_limit ? rms : knobs.write_limit);
  }

  template <bool kRound>
  __attribute__((noinline)) void AddUpCells() const {
    const Floats scale = Splat(at.step->gradient_scale), rate = Splat(at.step->rate_fast);
    const Floats floor = Splat(choice.floor);
    alignas(64) float mixture[kLanes] = {choice.log_fast, choice.log_slow};
    Store(mixture, Exp(Load(mixture)));
    const Floats before_fast = Splat(knobs.fast_weight * at.step->fall * mixture[0]);
    const Floats before_slow = Splat(knobs.slow_weight * mixture[1]);
    float* const rows = scratch + layout.cell_sums;
    for (size_t group = 0; group < groups; ++group) {
      for (size_t c = 0; c < kLanes; ++c) {
        const size_t cell = group * kLanes + c;
        float* const row = rows + c * kLanes;
        if (cell >= x.cells) {
          Store(row, Splat(0));
          continue;
        }
        float *const values = x.At(x.values, cell), *const fasts = x.At(x.fast, cell);
        float* const squares = x.At(x.square, cell);
        const float* const slows = x.At(x.slow, cell);
        float* const smooth_at = smooths + cell * x.stride;
        Floats sums[kSize];
        MNEMOSYNE_UNROLL
        for (size_t k = 0; k < kSize; ++k) sums[k] = Splat(0);
        for (size_t i = 0; i < x.stride; i += kLanes) {
          const Floats g = Clamped(Load(values + i), scale), old = Load(fasts + i);
          const Floats given = Load(squares + i), slow = Load(slows + i);
          const Floats square = kRound ? given : WithSquare(g, given);
          Floats fast = Fma(g - old, rate, old);
          if constexpr (kRound) fast = RoundedFast(fast, cell, i);
          const Floats inverse = InverseRoot(square, floor);
          const Floats sharp = g * inverse, smooth = fast * inverse;
          const Floats previous = Fma(before_fast * inverse, old, before_slow * slow);
          if constexpr (!kRound) Store(squares + i, square);
          Store(fasts + i, fast);
          Store(values + i, sharp);
          Store(smooth_at + i, smooth);
          sums[kGrad2] = Fma(g, g, sums[kGrad2]);
          sums[kOld2] = Fma(old, old, sums[kOld2]);
          sums[kSquare] = sums[kSquare] + square;
          sums[kSlow2] = Fma(slow, slow, sums[kSlow2]);
          sums[kGradOld] = Fma(g, old, sums[kGradOld]);
          sums[kPrevious2] = Fma(previous, previous, sums[kPrevious2]);
          sums[kSharp2] = Fma(sharp, sharp, sums[kSharp2]);
          sums[kSmooth2] = Fma(smooth, smooth, sums[kSmooth2]);
          sums[kSharpSlow] = Fma(sharp, slow, sums[kSharpSlow]);
          sums[kSmoothSlow] = Fma(smooth, slow, sums[kSmoothSlow]);
          sums[kSharpPrevious] = Fma(sharp, previous, sums[kSharpPrevious]);
        }
        SumLanes(sums[0], sums[1], sums[2], sums[3], row);
        SumLanes(sums[4], sums[5], sums[6], sums[7], row + 4);
        SumLanes(sums[8], sums[9], sums[10], sums[10], row + 8);
        row[kSize] = static_cast<float>(x.SizeOf(cell));
      }
      for (size_t k = 0; k < kCellSumCount; k += 4) {
        TransposeFour(rows + k, kLanes, Sums(group) + k * kLanes);
      }
    }
  }

  // Means over coordinates, which stay finite where sums are near the largest float.
  void AverageSums(float* means) {
    const Floats share = Splat(1 / static_cast<float>(x.count));
    Floats all[kCellSumCount];
    MNEMOSYNE_UNROLL
    for (size_t k = 0; k < kCellSumCount; ++k) all[k] = Splat(0);
    for (size_t group = 0; group < groups; ++group) {
      const float* const sums = Sums(group);
      MNEMOSYNE_UNROLL
      for (size_t k = 0; k < kCellSumCount; ++k) {
        all[k] = Fma(share, Load(sums + k * kLanes), all[k]);
      }
    }
    for (size_t k = 0; k < kCellSumCount; k += 4) {
      SumLanes(all[k], all[k + 1], all[k + 2], all[k + 3], means + k);
    }
    choice.mean_square = means[kSquare];
    means[kSize] = 1;
  }

  // Tokens of the cells of a tile from their features.
  template <size_t kGroups>
  void EmbedCells(size_t group, float mean_slow2) const {
    const Floats least = Splat(kSquareMin);
    const CellRows rows = Rows(layout.features, kCellFeatureCount), tokens = Tokens(group);
    for (size_t g = 0; g < kGroups; ++g) {
      Floats sums[kCellSumCount], features[kCellFeatureCount];
      MNEMOSYNE_UNROLL
      for (size_t k = 0; k < kCellSumCount; ++k) sums[k] = Load(Sums(group + g) + k * kLanes);
      Statistics(sums, least, features);
      const Floats size = sums[kSize];
      features[9] = LogRatio(sums[kSquare], size * Splat(choice.mean_square), least);
      features[10] = LogRatio(sums[kSlow2], size * Splat(mean_slow2), least);
      MNEMOSYNE_UNROLL
      for (size_t k = 0; k < kCellFeatureCount; ++k) Store(rows.Row(g, k), features[k]);
    }
    const size_t width = sizes.cell_width;
    MapGroups<kGroups>(weights.embed.w, weights.embed.b, kCellFeatureCount, layout.columns, width,
                       rows, tokens);
    for (size_t g = 0; g < kGroups; ++g) {
      for (size_t d = 0; d < width; ++d) Store(tokens.Row(g, d), Tanh(Load(tokens.Row(g, d))));
    }
  }

  // Bounded queries (side 0) or keys (side 1) of a tile, with positions, to features `phi`.
  template <size_t kGroups>
  void MakeFeatures(size_t group, size_t side, const CellRows& joined, const CellRows& phi) const {
    const size_t key = sizes.key_width, positional = sizes.positional;
    const CellRows part = Rows(layout.parts, key + positional);
    for (size_t g = 0; g < kGroups; ++g) {
      BoundCells(key, joined.Row(g, side * key), part.Row(g, 0));
      const size_t cells = CellsOf(group + g);
      const float* from = at.positions + side * positional * x.cells + (group + g) * kLanes;
      for (size_t i = 0; i < positional; ++i, from += x.cells) {
        Store(part.Row(g, key + i), Splat(knobs.gate_flt) * LoadFirst(from, cells));
      }
    }
    GroupFeatures<kGroups>(sizes.cell_map, weights.cell_map, part, phi);
  }

  // Level 1, before its sums are complete: queries, and what keys add to Psi and to the sums of
  // phi(k) with tokens, from which N follows.
  template <size_t kGroups>
  void WriteAttention(size_t group) const {
    const size_t width = sizes.cell_width, key = sizes.key_width;
    const size_t features = sizes.cell_map.features;
    const CellRows tokens = Tokens(group), joined = Rows(layout.joined, 2 * key);
    const CellRows keys = Rows(layout.keys, features);
    MapGroups<kGroups>(weights.cell_heads.w, weights.cell_heads.b, width,
                       PaddedColumns(2 * key + width), 2 * key, tokens, joined);
    MakeFeatures<kGroups>(group, 0, joined, Queries(group));
    MakeFeatures<kGroups>(group, 1, joined, keys);
    if (group + kGroups == groups && CellsOf(groups - 1) < kLanes) {
      const Floats mask = FirstLanes(CellsOf(groups - 1));
      for (size_t m = 0; m < features; ++m) {
        float* const at_key = keys.Row(kGroups - 1, m);
        Store(at_key, Load(at_key) * mask);
      }
    }
    float* const mass_sums = scratch + layout.mass_sums;
    for (size_t m = 0; m < features; ++m) {
      Floats sum = Load(mass_sums + m * kLanes);
      for (size_t g = 0; g < kGroups; ++g) sum = sum + Load(keys.Row(g, m));
      Store(mass_sums + m * kLanes, sum);
    }
    // Tokens with columns in the lanes: [kGroups * 16, columns].
    float *const rows = scratch + layout.rows, *const content = scratch + layout.content;
    for (size_t d = 0; d < width; d += kLanes) {
      for (size_t g = 0; g < kGroups; ++g) {
        for (size_t c = 0; c < kLanes; c += 4) {
          alignas(64) float four[4 * kLanes];
          TransposeFour(tokens.Row(g, d) + c, kLanes, four);
          for (size_t k = 0; k < 4; ++k) {
            Store(rows + (g * kLanes + c + k) * kLanes, Load(four + k * kLanes));
          }
        }
      }
      size_t m = 0;
      for (; m + kContentsAtOnce <= features; m += kContentsAtOnce) {
        AddContent<kGroups, kContentsAtOnce>(keys, m, rows, content + m * layout.columns + d);
      }
      for (; m < features; ++m) {
        AddContent<kGroups, 1>(keys, m, rows, content + m * layout.columns + d);
      }
    }
  }

  template <size_t kGroups, size_t kFeatures>
  void AddContent(const CellRows& keys, size_t m, const float* rows, float* content) const {
    Floats sums[kFeatures];
    MNEMOSYNE_UNROLL
    for (size_t k = 0; k < kFeatures; ++k) sums[k] = Load(content + k * layout.columns);
    for (size_t g = 0; g < kGroups; ++g) {
      const float* const key = keys.Row(g, m);
      for (size_t c = 0; c < kLanes; ++c) {
        const Floats value = Load(rows + (g * kLanes + c) * kLanes);
        MNEMOSYNE_UNROLL
        for (size_t k = 0; k < kFeatures; ++k) {
          sums[k] = Fma(Splat(key[k * kLanes + c]), value, sums[k]);
        }
      }
    }
    MNEMOSYNE_UNROLL
    for (size_t k = 0; k < kFeatures; ++k) Store(content + k * layout.columns, sums[k]);
  }

  void ClearAttention() const {
    const size_t features = sizes.cell_map.features;
    for (size_t i = 0; i < features * layout.columns; i += kLanes) {
      Store(scratch + layout.content + i, Splat(0));
    }
    for (size_t m = 0; m < PaddedColumns(features); ++m) {
      Store(scratch + layout.mass_sums + m * kLanes, Splat(0));
    }
    const size_t sums = PaddedColumns(sizes.cell_width + sizes.cell_hidden);
    for (size_t k = 0; k < sums; ++k) Store(scratch + layout.token_sums + k * kLanes, Splat(0));
  }

  // Psi, and N with the map that follows it.
  void CompleteAttention() const {
    const size_t features = sizes.cell_map.features;
    const float* const mass_sums = scratch + layout.mass_sums;
    for (size_t m = 0; m < features; m += 4) {
      const float* const four = mass_sums + m * kLanes;
      SumLanes(Load(four), Load(four + kLanes), Load(four + 2 * kLanes), Load(four + 3 * kLanes),
               Mass() + m);
    }
    size_t m = 0;
    for (; m + kOutputsAtOnce <= features; m += kOutputsAtOnce) MergeContents<kOutputsAtOnce>(m);
    for (; m < features; ++m) MergeContents<1>(m);
  }

  template <size_t kFeatures>
  void MergeContents(size_t m) const {
    const DenseWeights& map = weights.folds.cell_values;
    const size_t columns = layout.columns;
    const float* const content = scratch + layout.content + m * columns;
    float* const merged = scratch + layout.merged + m * columns;
    for (size_t first = 0; first < columns; first += kLanes) {
      const Floats bias = Load(map.b + first);
      Floats sums[kFeatures];
      MNEMOSYNE_UNROLL
      for (size_t k = 0; k < kFeatures; ++k) sums[k] = Splat(Mass()[m + k]) * bias;
      for (size_t d = 0; d < sizes.cell_width; ++d) {
        const Floats row = Load(map.w + d * columns + first);
        MNEMOSYNE_UNROLL
        for (size_t k = 0; k < kFeatures; ++k) {
          sums[k] = Fma(Splat(content[k * columns + d]), row, sums[k]);
        }
      }
      MNEMOSYNE_UNROLL
      for (size_t k = 0; k < kFeatures; ++k) Store(merged + k * columns + first, sums[k]);
    }
  }

  // The rest of level 1 for a tile: read and merge, the perceptron's hidden row, gains.
  template <size_t kGroups>
  void ReadAttention(size_t group) const {
    const size_t width = sizes.cell_width, features = sizes.cell_map.features;
    const size_t hidden_width = sizes.cell_hidden;
    const CellRows tokens = Tokens(group), queries = Queries(group);
    const CellRows attended = Rows(layout.attended, width);
    const CellRows hidden = Rows(layout.hidden, hidden_width);
    MapGroups<kGroups>(scratch + layout.merged, nullptr, features, layout.columns, width, queries,
                       attended);
    for (size_t g = 0; g < kGroups; ++g) {
      Floats below = Splat(0);
      for (size_t m = 0; m < features; ++m) {
        below = Fma(Splat(Mass()[m]), Load(queries.Row(g, m)), below);
      }
      const Floats factor = DivideOrZero(Splat(knobs.gate_level1), below);
      for (size_t d = 0; d < width; ++d) {
        const Floats bias = Splat(knobs.gate_level1 * weights.merge.b[d]);
        const Floats token = Load(tokens.Row(g, d)) + bias;
        Store(tokens.Row(g, d), Fma(Load(attended.Row(g, d)), factor, token));
      }
    }
    MapGroups<kGroups>(weights.expand.w, weights.expand.b, width, PaddedColumns(hidden_width),
                       hidden_width, tokens, hidden);
    FinishCells<kGroups>(group, tokens, hidden);
  }

  // Gains of a tile's cells, and its part of the sums over tokens and hidden rows.
  template <size_t kGroups>
  void FinishCells(size_t group, const CellRows& tokens, const CellRows& hidden) const {
    const size_t width = sizes.cell_width, stride = PaddedColumns(1);
    const DenseWeights& map = weights.folds.cell_gain;
    const Floats mask = FirstLanes(CellsOf(group + kGroups - 1));  // Only the last may be partial.
    Floats gains[kGroups];
    MNEMOSYNE_UNROLL
    for (size_t g = 0; g < kGroups; ++g) gains[g] = Splat(map.b[0]);
    // Adds row k of what tokens and hidden rows are together.
    const auto add = [&](size_t k, const Floats(&values)[kGroups]) {
      const Floats weight = Splat(map.w[k * stride]);
      float* const at_sum = scratch + layout.token_sums + k * kLanes;
      Floats sum = Load(at_sum);
      for (size_t g = 0; g < kGroups; ++g) {
        gains[g] = Fma(weight, values[g], gains[g]);
        sum = g + 1 < kGroups ? sum + values[g] : Fma(values[g], mask, sum);
      }
      Store(at_sum, sum);
    };
    Floats values[kGroups];
    for (size_t d = 0; d < width; ++d) {
      MNEMOSYNE_UNROLL
      for (size_t g = 0; g < kGroups; ++g) values[g] = Load(tokens.Row(g, d));
      add(d, values);
    }
    for (size_t k = 0; k < sizes.cell_hidden; ++k) {
      MNEMOSYNE_UNROLL
      for (size_t g = 0; g < kGroups; ++g) values[g] = Max(Load(hidden.Row(g, k)), Splat(0));
      add(width + k, values);
    }
    for (size_t g = 0; g < kGroups; ++g) {
      const Floats log_gain = Splat(knobs.gate_cell_gain * kLogGainRange) * Tanh(gains[g]);
      StoreFirst(at.gains + (group + g) * kLanes, Exp(log_gain), CellsOf(group + g));
    }
  }

  // Level 1; the means of tokens and of the hidden rows to `means` [w + cell_hidden], padded.
  void EncodeCells(float mean_slow2, float* means) const {
    ClearAttention();
    ForEachTile([&]<size_t kGroups>(size_t group) {
      EmbedCells<kGroups>(group, mean_slow2);
      WriteAttention<kGroups>(group);
    });
    CompleteAttention();
    ForEachTile([&]<size_t kGroups>(size_t group) { ReadAttention<kGroups>(group); });
    const Floats share = Splat(1 / static_cast<float>(x.cells));
    const size_t count = sizes.cell_width + sizes.cell_hidden;
    for (size_t k = 0; k < count; k += 4) {
      const float* const four = scratch + layout.token_sums + k * kLanes;
      SumLanes(share * Load(four), share * Load(four + kLanes), share * Load(four + 2 * kLanes),
               share * Load(four + 3 * kLanes), means + k);
    }
  }

  void Approach(float& current, float target) const {
    current += knobs.smoothing * (target - current);
  }

  // What the chunk decides from the last map's numbers, `out` [16], which it overwrites. Returns
  // kappa.
  float Decide(float* out) {
    const float end = out[0] < 0 ? knobs.eta_low : knobs.eta_high;
    out[kDecisionCount] = 2 * out[0] / end;
    Store(out, Tanh(Load(out)));
    const float target = end * out[kDecisionCount];
    Approach(choice.log_sharp, knobs.gate_mixture * kSharpRange * out[5]);
    Approach(choice.log_fast, knobs.gate_mixture * kFastRange * out[1]);
    Approach(choice.log_slow, knobs.gate_mixture * kSlowRange * out[2]);
    const float change = knobs.smoothing * (target - choice.log_step);
    choice.log_step += change < knobs.eta_rise ? change : knobs.eta_rise;

    alignas(64) float logs[kLanes] = {choice.log_sharp,
                                      choice.log_fast,
                                      choice.log_slow,
                                      choice.log_step,
                                      knobs.gate_growth * kGrowthRange * out[3],
                                      knobs.gate_decay * kDecayRange * out[4]};
    Store(logs, Exp(Load(logs)));
    choice.weight_sharp = knobs.sharp_weight * at.step->fall * logs[0];
    choice.weight_fast = knobs.fast_weight * at.step->fall * logs[1];
    choice.weight_slow = knobs.slow_weight * logs[2];
    choice.step = at.tensor->prior_step * at.step->warm * logs[3];
    choice.level = at.step->level;
    choice.shrink = at.tensor->decays * knobs.decay * logs[5] * choice.step *
                    (choice.weight_sharp + choice.weight_fast + choice.weight_slow);
    return 1 + knobs.growth * logs[4];
  }

  // Last pass: r2 takes in the direction, and the update takes its place. Returns the sum of its
  // squares.
  double WriteUpdates(float growth) {
    choice.cap = 1;
    const double total =
        at.rounding == nullptr ? ReadMemories<false>(growth) : ReadMemories<true>(growth);
    const double limit = static_cast<double>(at.step->limit);
    const double count = static_cast<double>(x.count);
    if (!(total > limit * limit * count)) return total;
    const double square = limit * limit * count / total;
    choice.cap = ScalarSqrt(static_cast<float>(square));
    return ScaleUpdates();
  }

  // A function of its own, so that its sums stay in registers.
  template <bool kRound>
  __attribute__((noinline)) double ReadMemories(float growth) const {
    const Reading reading(choice, knobs);
    const Floats rate = Splat(growth / (at.step->age + growth - 1));
    SquareSum sum;
    for (size_t cell = 0; cell < x.cells; ++cell) {
      const Floats gain = Splat(at.gains[cell]);
      float *const values = x.At(x.values, cell), *const slows = x.At(x.slow, cell);
      const float* const smooth_at = smooths + cell * x.stride;
      for (size_t i = 0; i < x.stride; i += kLanes) {
        const Floats sharp = reading.sharp_scale * Load(values + i), old = Load(slows + i);
        Floats slow = Fma(rate, sharp - old, old);
        if constexpr (kRound) slow = RoundedSlow(slow, cell, i);
        const Floats update = reading.Update(sharp, Load(smooth_at + i), slow, gain);
        Store(slows + i, slow);
        Store(values + i, update);
        sum.Add(update);
      }
    }
    return Total(sum);
  }

  double ScaleUpdates() const {
    const Floats cap = Splat(choice.cap);
    SquareSum sum;
    for (size_t cell = 0; cell < x.cells; ++cell) {
      float* const values = x.At(x.values, cell);
      for (size_t i = 0; i < x.stride; i += kLanes) {
        const Floats update = cap * Load(values + i);
        Store(values + i, update);
        sum.Add(update);
      }
    }
    return Total(sum);
  }

  // The last update once more.
  double Replay() const {
    const Reading reading(choice, knobs);
    const Floats floor = Splat(choice.floor), scale = Splat(at.step->gradient_scale);
    for (size_t cell = 0; cell < x.cells; ++cell) {
      const Floats gain = Splat(at.gains[cell]);
      float* const values = x.At(x.values, cell);
      const float *const fasts = x.At(x.fast, cell), *const squares = x.At(x.square, cell);
      const float* const slows = x.At(x.slow, cell);
      for (size_t i = 0; i < x.stride; i += kLanes) {
        const Floats inverse = InverseRoot(Load(squares + i), floor);
        const Floats g = Clamped(Load(values + i), scale);
        const Floats sharp = reading.sharp_scale * (g * inverse);
        Store(values + i, reading.Update(sharp, Load(fasts + i) * inverse, Load(slows + i), gain));
      }
    }
    return ScaleUpdates();
  }
};
