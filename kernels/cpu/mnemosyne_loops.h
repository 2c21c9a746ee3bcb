// The step of the flagship for a few chunks; see mnemosyne_step.h. Included by kernel_loops.h,
// inside its unnamed namespace, after token_loops.h and mnemosyne_chunk_loops.h.
//
// What is computed for chunks has columns in the lanes. Every instruction set adds in the same
// order, and a chunk's numbers do not depend on the others.

// Asks for the coordinates of a chunk that starts `skip` coordinates after those of `step`, so that
// they come while cells are at work. A macro, since a compiler takes a function of prefetches for
// one without effect.
#define MNEMOSYNE_PREFETCH(first, second, skip, count)         \
  for (size_t i = (skip); i < (skip) + (count); i += kLanes) { \
    __builtin_prefetch((first) + i, 0, 2);                     \
    __builtin_prefetch((second) + i, 0, 2);                    \
  }

// A batch of chunks at work, the chunk level of all of them together.
struct BatchWork {
  const MnemosyneModel& model;
  const MnemosyneSizes& sizes;
  const MnemosyneWeights& weights;
  const MnemosyneScratch layout;
  const MnemosyneChunkStep* const steps;
  const size_t count;
  float* const scratch;

  BatchWork(const MnemosyneModel& all, const MnemosyneChunkStep* chunks, size_t chunk_count,
            float* workspace)
      : model(all),
        sizes(all.sizes),
        weights(all.weights),
        layout(all.sizes),
        steps(chunks),
        count(chunk_count),
        scratch(workspace) {}

  TokenRows Rows(size_t place) const { return {scratch + place, layout.token_stride}; }
  float* Means(size_t slot) const { return scratch + layout.means + slot * kLanes; }

  // What chunks are told of themselves, behind the means of their cells: the inputs of the pooling.
  // `old_mean_squares` [16] are those before this step.
  void DescribeChunks(const float* old_mean_squares) const {
    alignas(64) float least[kLanes] = {}, tensors[kLanes] = {};
    for (size_t r = 0; r < count; ++r) {
      least[r] = kSquareMin / static_cast<float>(steps[r].chunk->count);
      tensors[r] = steps[r].tensor_mean_square;
    }
    float* const lanes = scratch + layout.described;
    float* const rows = lanes + kLanes * kLanes;
    Floats sums[kCellSumCount], features[kChunkStatisticCount];
    for (size_t k = 0; k < kCellSumCount; k += 4) {
      TransposeFour(Means(0) + k, kLanes, lanes + k * kLanes);
    }
    MNEMOSYNE_UNROLL
    for (size_t k = 0; k < kCellSumCount; ++k) sums[k] = Load(lanes + k * kLanes);
    Statistics(sums, Load(least), features);
    MNEMOSYNE_UNROLL
    for (size_t k = 0; k < kChunkStatisticCount; ++k) Store(lanes + k * kLanes, features[k]);
    Store(lanes + kChunkStatisticCount * kLanes,
          LogRatio(Load(old_mean_squares), Load(tensors), Load(least)));
    TransposeFour(lanes, kLanes, rows);

    const TokenRows inputs = Rows(layout.pool_inputs);
    for (size_t r = 0; r < count; ++r) {
      float* next = inputs.Row(r) + sizes.cell_width + sizes.cell_hidden;
      for (size_t k = 0; k <= kChunkStatisticCount; ++k) *next++ = rows[r * kLanes + k];
      *next++ = 0.25F * steps[r].choice->log_step;
      for (size_t k = 0; k < kConditionCount; ++k) *next++ = steps[r].step->conditions[k];
    }
  }

  // The chunks' tokens, the first columns of the decoder's inputs.
  void Pool() const {
    const TokenRows tokens = Rows(layout.decoder_inputs);
    MapTokens(weights.folds.pool, sizes.cell_width + sizes.cell_hidden + kChunkFeatureCount,
              sizes.token_width, Rows(layout.pool_inputs), tokens);
    TanhTokens(sizes.token_width, tokens);
    for (size_t r = 0; r < count; ++r) {
      for (size_t i = 0; i < sizes.token_width; ++i) steps[r].token[i] = tokens.Row(r)[i];
    }
  }

  // The memory in time: [J, D] behind the tokens.
  void Remember() const {
    const size_t key = sizes.key_width, width = sizes.memory_width;
    const size_t features = sizes.memory_map.features;
    const TokenRows inputs = Rows(layout.decoder_inputs), joined = Rows(layout.heads);
    const TokenRows phi_q = Rows(layout.query_features), phi_k = Rows(layout.key_features);
    const TokenRows strengths = Rows(layout.decisions);
    const bool additive = sizes.write_rule == MnemosyneWriteRule::kAdditive;
    const bool recurrent = sizes.write_rule == MnemosyneWriteRule::kRecurrentDelta;
    float query_halves[kTokensAtOnce], key_halves[kTokensAtOnce];
    MapTokens(weights.memory_heads, sizes.token_width, 2 * key + width, inputs, joined);
    if (!additive) {
      MapTokens(weights.memory_strengths, sizes.token_width, sizes.memory_heads, inputs, strengths);
      if (recurrent) AddLastReading(joined, strengths);
      for (size_t r = 0; r < kTokensAtOnce; ++r) {
        Store(strengths.Row(r), Divide(SigmoidRatio(Load(strengths.Row(r)))));
      }
    }
    BoundTokens(key, joined, query_halves);
    BoundTokens(key, joined.From(key), key_halves);
    for (size_t head = 0; head < sizes.memory_heads; ++head) {
      const MapWeights& map = weights.memory_maps[head];
      const float discount = weights.discounts[head];
      TokenFeatures(sizes.memory_map, map, joined, query_halves, phi_q);
      TokenFeatures(sizes.memory_map, map, joined.From(key), key_halves, phi_k);
      for (size_t r = 0; r < count; ++r) {
        float* const out = inputs.Row(r) + sizes.token_width + head * width;
        const float* const value = joined.Row(r) + 2 * key;
        float* const content = steps[r].content + head * features * width;
        if (additive) {
          AdditiveMemoryStep({features, width}, discount, phi_q.Row(r), phi_k.Row(r), value,
                             content, steps[r].mass + head * features, out);
        } else {
          DeltaMemoryStep({features, width}, discount, strengths.Row(r)[head], phi_q.Row(r),
                          phi_k.Row(r), value, content, out);
        }
        for (size_t d = 0; d < width; ++d) {
          if (recurrent) steps[r].mass[head * width + d] = out[d];
          out[d] *= model.knobs.gate_cam;
        }
      }
    }
  }

  // Adds what the tanh of the last read-outs is mapped to.
  void AddLastReading(TokenRows joined, TokenRows strengths) const {
    const size_t inputs = sizes.memory_heads * sizes.memory_width;
    const size_t heads = 2 * sizes.key_width + sizes.memory_width;
    const TokenRows last = Rows(layout.key_features), more = Rows(layout.query_features);
    for (size_t r = 0; r < kTokensAtOnce; ++r) {
      for (size_t i = 0; i < PaddedColumns(inputs); ++i) {
        last.Row(r)[i] = r < count && i < inputs ? steps[r].mass[i] : 0;
      }
    }
    TanhTokens(inputs, last);
    MapTokens(weights.recurrent, nullptr, inputs, RecurrentOutputCount(sizes), last, more);
    for (size_t r = 0; r < kTokensAtOnce; ++r) {
      for (size_t i = 0; i < heads; ++i) joined.Row(r)[i] += more.Row(r)[i];
      for (size_t j = 0; j < sizes.memory_heads; ++j) {
        strengths.Row(r)[j] += more.Row(r)[heads + j];
      }
    }
  }

  // The contexts: [2, D] to `read`.
  void AttendToOthers(const MnemosyneChunkStep& at, float* read) const {
    const MnemosyneKnobs& knobs = model.knobs;
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
        const size_t columns = width - d < kLanes ? width - d : kLanes;
        Floats above = Splat(0);
        for (size_t m = 0; m < features; ++m) {
          above =
              Fma(Splat(phi[m]), LoadFirst(contents[head] + m * (width + 1) + d, columns), above);
        }
        StoreFirst(read + head * width + d, Splat(gates[head]) * DivideOrZero(above, below),
                   columns);
      }
    }
  }

  // The decoder: 16 numbers a chunk, of which kDecisionCount count.
  TokenRows Decode() const {
    const TokenRows hidden = Rows(layout.heads), out = Rows(layout.decisions);
    MapTokens(weights.decoder_hidden, DecoderInputCount(sizes), sizes.hidden,
              Rows(layout.decoder_inputs), hidden);
    TanhTokens(sizes.hidden, hidden);
    MapTokens(weights.decision, sizes.hidden, kDecisionCount, hidden, out);
    return out;
  }

  void ClearTokens() const {
    for (size_t r = count; r < kLanes; ++r) Store(Means(r), Splat(0));
    for (size_t r = count; r < kTokensAtOnce; ++r) {
      for (size_t i = 0; i < layout.token_stride; i += kLanes) {
        Store(Rows(layout.pool_inputs).Row(r) + i, Splat(0));
        Store(Rows(layout.decoder_inputs).Row(r) + i, Splat(0));
      }
    }
  }

  void Step(double* square_sums) const {
    alignas(64) float old_mean_squares[kLanes] = {};
    ClearTokens();
    for (size_t r = 0; r < count; ++r) {
      const MnemosyneChunkStep& step = steps[r];
      ChunkWork work(model, layout, step, r, scratch);
      old_mean_squares[r] = step.choice->mean_square;
      work.MeasureDirections(Means(r));
      // Most likely the coordinates that this thread works on next.
      MNEMOSYNE_PREFETCH(step.values, step.square, work.x.count, work.x.count)
      MNEMOSYNE_PREFETCH(step.fast, step.slow, work.x.count, work.x.count)
      work.EncodeCells(Means(r)[kSlow2], Rows(layout.pool_inputs).Row(r));
      work.x.PutBack(/*replay=*/false);
    }
    DescribeChunks(old_mean_squares);
    Pool();
    Remember();
    const TokenRows inputs = Rows(layout.decoder_inputs);
    const size_t before = sizes.token_width + sizes.memory_heads * sizes.memory_width;
    for (size_t r = 0; r < count; ++r) {
      AttendToOthers(steps[r], inputs.Row(r) + before);
    }
    const TokenRows out = Decode();
    for (size_t r = 0; r < count; ++r) {
      ChunkWork work(model, layout, steps[r], r, scratch);
      square_sums[r] = work.WriteUpdates(work.Decide(out.Row(r)));
      work.x.PutBack(/*replay=*/false);
    }
  }
};

#undef MNEMOSYNE_PREFETCH

void MnemosyneUpdate(const MnemosyneModel& model, const MnemosyneChunkStep* steps, size_t count,
                     bool replay, float* scratch, double* square_sums) {
  const BatchWork batch(model, steps, count, scratch);
  if (!replay) return batch.Step(square_sums);
  for (size_t r = 0; r < count; ++r) {
    const ChunkWork work(model, batch.layout, steps[r], r, scratch);
    square_sums[r] = work.Replay();
    work.x.PutBack(replay);
  }
}

// Level 2 for `count` chunks: their queries [2, M'], and what their keys and values add to the
// contents of their tensor and of all [M', D + 1].
void MnemosyneContext(const MnemosyneModel& model, size_t count, const float* tokens,
                      float* queries, float* own, float* all) {
  const MnemosyneSizes& sizes = model.sizes;
  const size_t key = sizes.key_width, width = sizes.memory_width, token = sizes.token_width;
  const size_t features = sizes.context_map.features, head_size = 2 * key + width;
  constexpr size_t kWidth = kMnemosyneWidthMax;
  constexpr size_t kJoined = 6 * kWidth;
  float rest[kTokensAtOnce * 2 * kWidth];
  alignas(64) float joined_data[kTokensAtOnce * kJoined];
  alignas(64) float phi_data[kTokensAtOnce * kWidth];
  const TokenRows joined = {joined_data, kJoined}, phi = {phi_data, kWidth};
  for (size_t first = 0; first < count; first += kTokensAtOnce) {
    const size_t here = count - first < kTokensAtOnce ? count - first : kTokensAtOnce;
    TokenRows inputs = {const_cast<float*>(tokens) + first * token, token};
    if (here < kTokensAtOnce) {
      for (size_t i = 0; i < here * token; ++i) rest[i] = inputs.data[i];
      for (size_t i = here * token; i < kTokensAtOnce * token; ++i) rest[i] = 0;
      inputs.data = rest;
    }
    MapTokens(model.weights.context_heads, token, 2 * head_size, inputs, joined);
    for (size_t head = 0; head < 2; ++head) {
      const TokenRows part = joined.From(head * head_size);
      float halves[kTokensAtOnce];
      BoundTokens(key, part, halves);
      TokenFeatures(sizes.context_map, model.weights.context_map, part, halves, phi);
      for (size_t r = 0; r < here; ++r) {
        float* const target = queries + (2 * (first + r) + head) * features;
        for (size_t m = 0; m < features; ++m) target[m] = phi.Row(r)[m];
      }
      BoundTokens(key, part.From(key), halves);
      TokenFeatures(sizes.context_map, model.weights.context_map, part.From(key), halves, phi);
      float* const contents = head == 0 ? own : all;
      for (size_t m = 0; m < features; ++m) {
        float* const row = contents + m * (width + 1);
        for (size_t d = 0; d < width; d += kLanes) {
          const size_t columns = width - d < kLanes ? width - d : kLanes;
          Floats sum = LoadFirst(row + d, columns);
          for (size_t r = 0; r < here; ++r) {
            sum = Fma(Splat(phi.Row(r)[m]), LoadFirst(part.Row(r) + 2 * key + d, columns), sum);
          }
          StoreFirst(row + d, sum, columns);
        }
        for (size_t r = 0; r < here; ++r) row[width] += phi.Row(r)[m];
      }
    }
  }
}
