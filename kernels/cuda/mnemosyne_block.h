// One chunk's step of the flagship as the program of a block of threads, for models of any sizes:
// the plain form of mnemosyne_team.h, which holds nothing in registers and folds no maps.
//
// Written over the threads of `T`: T::ForEach(count, f) calls f(i) for all i below `count`, spread
// over the threads, and returns when all have returned. Every sum is formed by one thread in order.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/block_memory.h"
#include "kernels/cuda/device_functions.h"
#include "kernels/mnemosyne_sizes.h"

namespace mnemosyne::kernels::cuda {

// Where the parts of a block's scratch lie, in floats; its start is aligned to 8 bytes.
struct BlockScratch {
  size_t parts, maxima, inverse_scale, sums, tokens, queries, keys, values, content, mass, means,
      pool_inputs, joined, features, decoder_inputs, hidden, out;
  size_t end = 0;

  MNEMOSYNE_ANYWHERE static size_t Count(const MnemosyneSizes& s) { return BlockScratch(s).end; }

  MNEMOSYNE_ANYWHERE explicit BlockScratch(const MnemosyneSizes& s) {
    const size_t cells = s.chunk_cells, width = s.cell_width, features_max = s.cell_map.features;
    parts = Take(2 * cells);  // Doubles.
    maxima = Take(cells);
    inverse_scale = Take(1);
    sums = Take(cells * kSums);
    tokens = Take(cells * width);
    queries = Take(cells * features_max);
    keys = Take(cells * features_max);
    values = Take(cells * width);
    content = Take(features_max * width);
    mass = Take(features_max);
    means = Take(12);
    pool_inputs = Take(width + kChunkFeatureCount);
    joined = Take(RecurrentOutputCount(s));
    features = Take(2 * s.memory_heads * s.memory_map.features);
    decoder_inputs = Take(DecoderInputCount(s));
    hidden = Take(s.hidden);
    out = Take(8);
  }

 private:
  MNEMOSYNE_ANYWHERE size_t Take(size_t count) {
    const size_t start = end;
    end += (count + 3) / 4 * 4;
    return start;
  }
};

// The memories of coordinates are those of `Memory`: see block_memory.h.
template <class T, class Memory>
class BlockChunk {
 public:
  MNEMOSYNE_DEVICE BlockChunk(const MnemosyneModel& model, float* scratch,
                              const MnemosyneChunkStep& at)
      : sizes_(model.sizes),
        knobs_(model.knobs),
        weights_(model.weights),
        layout_(model.sizes),
        scratch_(scratch),
        at_(at),
        memory_(at),
        count_(at.chunk->count),
        cells_(at.chunk->cells) {}

  // The step; the sum of the update's squares to `square_sum`, whether it was capped to `capped`.
  MNEMOSYNE_DEVICE void Step(double* square_sum, uint32_t* capped) {
    const float old_mean_square = at_.choice->mean_square;
    if (Memory::kRounds) ChooseScale();
    Measure();
    EncodeCells();
    MakeToken(old_mean_square);
    Remember();
    AttendToOthers();
    Decide();
    WriteUpdates(square_sum, capped);
  }

  MNEMOSYNE_DEVICE void Replay(double* square_sum, uint32_t* capped) {
    const Reading reading(*at_.choice, knobs_);
    T::ForEach(cells_, [&](size_t cell) {
      double sum = 0;
      for (size_t i = First(cell); i < End(cell); ++i) {
        const float inverse = InverseRoot(memory_.Square(i)), smooth = memory_.Fast(i) * inverse;
        const float sharp = reading.sharp_scale * (Gradient(i) * inverse);
        const float update = reading.Update(sharp, smooth, memory_.Slow(i), at_.gains[cell]);
        at_.values[i] = at_.choice->cap * update;
        sum = fma(static_cast<double>(at_.values[i]), static_cast<double>(at_.values[i]), sum);
      }
      Parts()[cell] = sum;
    });
    Answer(square_sum, capped);
  }

 private:
  struct Reading {
    float sharp_scale, weight_sharp, weight_fast, weight_slow, level, share, step;

    MNEMOSYNE_DEVICE Reading(const MnemosyneChoice& c, const MnemosyneKnobs& knobs)
        : sharp_scale(c.sharp_scale),
          weight_sharp(c.weight_sharp),
          weight_fast(c.weight_fast),
          weight_slow(c.weight_slow),
          level(c.level),
          share(knobs.guard_share),
          step(c.step) {}

    MNEMOSYNE_DEVICE float Update(float sharp, float smooth, float slow, float gain) const {
      const float read =
          fmaf(weight_sharp, sharp, fmaf(weight_slow, slow, weight_fast * smooth)) * gain;
      return -step * fmaf(level, fmaf(share, smooth, -read), read);
    }
  };

  MNEMOSYNE_DEVICE float* At(size_t place) const { return scratch_ + place; }
  MNEMOSYNE_DEVICE double* Parts() const { return reinterpret_cast<double*>(At(layout_.parts)); }
  MNEMOSYNE_DEVICE size_t First(size_t cell) const { return cell * sizes_.cell_size; }
  MNEMOSYNE_DEVICE size_t End(size_t cell) const {
    const size_t end = (cell + 1) * sizes_.cell_size;
    return end < count_ ? end : count_;
  }
  MNEMOSYNE_DEVICE float Share() const { return 1 / static_cast<float>(count_); }
  MNEMOSYNE_DEVICE float Gradient(size_t i) const {
    return fmaxf(fminf(at_.step->gradient_scale * at_.values[i], kGradientMax), -kGradientMax);
  }
  MNEMOSYNE_DEVICE float InverseRoot(float square) const {
    return square > 0 ? 1 / (sqrtf(square) + at_.choice->floor) : 0.0F;
  }

  // What s becomes with the gradient g.
  MNEMOSYNE_DEVICE float NextSquare(size_t i, float g) const {
    const float s = memory_.Square(i);
    return fmaf(g * g - s, at_.step->rate_square, s);
  }

  // The scale of this step's squares to the scratch, from the greatest of them.
  MNEMOSYNE_DEVICE void ChooseScale() {
    T::ForEach(cells_, [&](size_t cell) {
      float most = 0;
      for (size_t i = First(cell); i < End(cell); ++i) {
        most = fmaxf(most, NextSquare(i, Gradient(i)));
      }
      At(layout_.maxima)[cell] = most;
    });
    T::ForEach(1, [&](size_t) {
      float most = 0;
      for (size_t cell = 0; cell < cells_; ++cell) most = fmaxf(most, At(layout_.maxima)[cell]);
      *At(layout_.inverse_scale) = InverseRootScale(most);
      memory_.KeepInverseScale(*At(layout_.inverse_scale));
    });
  }

  // r1 and s take in the gradient; sums of cells and means of the chunk.
  MNEMOSYNE_DEVICE void Measure() {
    MnemosyneChoice& choice = *at_.choice;
    const float share = Share(), rate = at_.step->rate_fast;
    T::ForEach(1, [&](size_t) { choice.floor = knobs_.epsilon * sqrtf(choice.mean_square); });
    T::ForEach(cells_, [&](size_t cell) {
      const float before_fast = knobs_.fast_weight * at_.step->fall * expf(choice.log_fast);
      const float before_slow = knobs_.slow_weight * expf(choice.log_slow);
      float sums[kSums] = {};
      for (size_t i = First(cell); i < End(cell); ++i) {
        const float g = Gradient(i), old = memory_.Fast(i), slow = memory_.Slow(i);
        const float square = memory_.PutSquare(i, NextSquare(i, g), *At(layout_.inverse_scale));
        const float fast = memory_.PutFast(i, fmaf(g - old, rate, old));
        const float inverse = InverseRoot(square);
        const float sharp = g * inverse, smooth = fast * inverse;
        const float previous = fmaf(before_fast * inverse, old, before_slow * slow);
        sums[kGrad2] = fmaf(g, g, sums[kGrad2]);
        sums[kOld2] = fmaf(old, old, sums[kOld2]);
        sums[kSquare] += square;
        sums[kSlow2] = fmaf(slow, slow, sums[kSlow2]);
        sums[kPrevious2] = fmaf(previous, previous, sums[kPrevious2]);
        sums[kSharp2] = fmaf(sharp, sharp, sums[kSharp2]);
        sums[kSmooth2] = fmaf(smooth, smooth, sums[kSmooth2]);
        sums[kGradOld] = fmaf(g, old, sums[kGradOld]);
        sums[kSharpSlow] = fmaf(sharp, slow, sums[kSharpSlow]);
        sums[kSmoothSlow] = fmaf(smooth, slow, sums[kSmoothSlow]);
        sums[kSharpPrevious] = fmaf(sharp, previous, sums[kSharpPrevious]);
      }
      for (size_t k = 0; k < kSums; ++k) At(layout_.sums)[cell * kSums + k] = sums[k];
    });
    T::ForEach(kSums, [&](size_t k) {
      float mean = 0;
      for (size_t cell = 0; cell < cells_; ++cell) {
        mean = fmaf(share, At(layout_.sums)[cell * kSums + k], mean);
      }
      At(layout_.means)[k] = mean;
      if (k == kSquare) choice.mean_square = mean;
      if (k == kSharp2) {
        choice.sharp_scale = knobs_.write_limit / fmaxf(sqrtf(mean), knobs_.write_limit);
      }
    });
  }

  static MNEMOSYNE_DEVICE float LogRatio(float above, float below, float least) {
    if (!(above > least) || !(below > least)) return 0;
    constexpr float kLimit = 2980.95799F;  // e^8
    return 0.25F * logf(fmaxf(fminf(above / below, kLimit), 1 / kLimit));
  }
  static MNEMOSYNE_DEVICE float Cosine(float product, float left, float right, float least) {
    if (!(left > least) || !(right > least)) return 0;
    return fmaxf(fminf(product / sqrtf(left) / sqrtf(right), 1.0F), -1.0F);
  }
  static MNEMOSYNE_DEVICE void Statistics(const float* sums, float size, float least,
                                          float* features) {
    features[0] = LogRatio(sums[kGrad2], sums[kSquare], least);
    features[1] = Cosine(sums[kGradOld], sums[kGrad2], sums[kOld2], least);
    features[2] = Cosine(sums[kSharpSlow], sums[kSharp2], sums[kSlow2], least);
    features[3] = Cosine(sums[kSmoothSlow], sums[kSmooth2], sums[kSlow2], least);
    features[4] = Cosine(sums[kSharpPrevious], sums[kSharp2], sums[kPrevious2], least);
    features[5] = LogRatio(sums[kSmooth2], size, least);
    features[6] = LogRatio(sums[kSlow2], size, least);
    features[7] = LogRatio(sums[kPrevious2], size, least);
    features[8] = LogRatio(sums[kSharp2], size, least);
  }

  // Level 1.
  MNEMOSYNE_DEVICE void EncodeCells() {
    const size_t width = sizes_.cell_width, features = sizes_.cell_map.features;
    const size_t key = sizes_.key_width, positional = sizes_.positional;
    const float* const means = At(layout_.means);
    T::ForEach(cells_, [&](size_t cell) {
      const float* const sums = At(layout_.sums) + cell * kSums;
      const float size = static_cast<float>(End(cell) - First(cell));
      float x[kCellFeatureCount], joined[2 * kMnemosyneWidthMax], part[2 * kMnemosyneWidthMax];
      Statistics(sums, size, kSquareMin, x);
      x[9] = LogRatio(sums[kSquare], size * means[kSquare], kSquareMin);
      x[10] = LogRatio(sums[kSlow2], size * means[kSlow2], kSquareMin);
      float* const token = At(layout_.tokens) + cell * width;
      for (size_t d = 0; d < width; ++d) {
        token[d] = tanhf(OutputOf(weights_.embed, x, kCellFeatureCount, width, d));
      }
      for (size_t i = 0; i < 2 * key; ++i) {
        joined[i] = OutputOf(weights_.cell_heads, token, width, 2 * key + width, i);
      }
      for (size_t d = 0; d < width; ++d) {
        At(layout_.values)[cell * width + d] =
            OutputOf(weights_.cell_heads, token, width, 2 * key + width, 2 * key + d);
      }
      for (size_t side = 0; side < 2; ++side) {
        BoundInto(joined + side * key, key, part);
        for (size_t i = 0; i < positional; ++i) {
          part[key + i] = knobs_.gate_flt * at_.positions[(side * positional + i) * cells_ + cell];
        }
        float* const phi = At(side == 0 ? layout_.queries : layout_.keys) + cell * features;
        for (size_t m = 0; m < features; ++m) {
          phi[m] = FeatureOf(sizes_.cell_map, weights_.cell_map, part, m);
        }
      }
    });
    T::ForEach(features * (width + 1), [&](size_t k) {
      const bool is_mass = k >= features * width;
      const size_t m = is_mass ? k - features * width : k / width;
      float sum = 0;
      for (size_t cell = 0; cell < cells_; ++cell) {
        const float phi = At(layout_.keys)[cell * features + m];
        const float value = is_mass ? 1.0F : At(layout_.values)[cell * width + k % width];
        sum = fmaf(phi, value, sum);
      }
      *(is_mass ? At(layout_.mass) + m : At(layout_.content) + k) = sum;
    });
    T::ForEach(cells_, [&](size_t cell) {
      const float* const phi = At(layout_.queries) + cell * features;
      float* const token = At(layout_.tokens) + cell * width;
      float read[kMnemosyneWidthMax], hidden[kMnemosyneWidthMax], below = 0;
      for (size_t m = 0; m < features; ++m) below = fmaf(phi[m], At(layout_.mass)[m], below);
      for (size_t d = 0; d < width; ++d) {
        float above = 0;
        for (size_t m = 0; m < features; ++m) {
          above = fmaf(phi[m], At(layout_.content)[m * width + d], above);
        }
        read[d] = QuotientOrZero(above, below);
      }
      for (size_t d = 0; d < width; ++d) {
        token[d] =
            fmaf(knobs_.gate_level1, OutputOf(weights_.merge, read, width, width, d), token[d]);
      }
      for (size_t k = 0; k < sizes_.cell_hidden; ++k) {
        hidden[k] = fmaxf(OutputOf(weights_.expand, token, width, sizes_.cell_hidden, k), 0.0F);
      }
      for (size_t d = 0; d < width; ++d) {
        token[d] += OutputOf(weights_.contract, hidden, sizes_.cell_hidden, width, d);
      }
      const float gain = tanhf(OutputOf(weights_.gain, token, width, 1, 0));
      at_.gains[cell] = expf(knobs_.gate_cell_gain * kLogGainRange * gain);
    });
  }

  MNEMOSYNE_DEVICE void MakeToken(float old_mean_square) {
    const size_t width = sizes_.cell_width;
    float* const inputs = At(layout_.pool_inputs);
    T::ForEach(width + 1, [&](size_t d) {
      if (d < width) {
        float sum = 0;
        for (size_t cell = 0; cell < cells_; ++cell) sum += At(layout_.tokens)[cell * width + d];
        inputs[d] = sum / static_cast<float>(cells_);
        return;
      }
      const float least = kSquareMin * Share();
      float* const x = inputs + width;
      Statistics(At(layout_.means), 1, least, x);
      x[9] = LogRatio(old_mean_square, at_.tensor_mean_square, least);
      x[10] = 0.25F * at_.choice->log_step;
      for (size_t k = 0; k < kConditionCount; ++k) x[11 + k] = at_.step->conditions[k];
    });
    T::ForEach(sizes_.token_width, [&](size_t k) {
      const float token =
          tanhf(OutputOf(weights_.pool, inputs, width + kChunkFeatureCount, sizes_.token_width, k));
      at_.token[k] = token;
      At(layout_.decoder_inputs)[k] = token;
    });
  }

  // The memory in time: queries, keys and a value, their features, then the memory itself.
  MNEMOSYNE_DEVICE void Remember() {
    const size_t features = sizes_.memory_map.features, all = sizes_.memory_heads * features;
    const size_t key = sizes_.key_width;
    float *const joined = At(layout_.joined), *const phis = At(layout_.features);
    const bool additive = sizes_.write_rule == MnemosyneWriteRule::kAdditive;
    T::ForEach(2 * key + sizes_.memory_width + (additive ? 0 : sizes_.memory_heads),
               [&](size_t k) { joined[k] = JoinedOf(k); });
    T::ForEach(2 * all, [&](size_t k) {
      const size_t side = k / all, head = k % all / features;
      float part[kMnemosyneWidthMax];
      BoundInto(joined + side * key, key, part);
      phis[k] = FeatureOf(sizes_.memory_map, weights_.memory_maps[head], part, k % features);
    });
    additive ? StepAdditive() : StepDelta();
  }

  // Number k of a query, a key and a value, then of the strengths that the delta rules write with.
  MNEMOSYNE_DEVICE float JoinedOf(size_t k) const {
    const float* const token = At(layout_.decoder_inputs);
    const size_t heads = sizes_.memory_heads, outputs = 2 * sizes_.key_width + sizes_.memory_width;
    float sum = k < outputs ? OutputOf(weights_.memory_heads, token, sizes_.token_width, outputs, k)
                            : OutputOf(weights_.memory_strengths, token, sizes_.token_width, heads,
                                       k - outputs);
    if (sizes_.write_rule != MnemosyneWriteRule::kRecurrentDelta) return sum;
    const size_t stride = PaddedColumns(RecurrentOutputCount(sizes_));
    for (size_t i = 0; i < heads * sizes_.memory_width; ++i) {  // What was read a step before.
      sum = fmaf(tanhf(at_.mass[i]), weights_.recurrent[i * stride + k], sum);
    }
    return sum;
  }

  MNEMOSYNE_DEVICE void StepAdditive() {
    const size_t width = sizes_.memory_width, features = sizes_.memory_map.features;
    const size_t all = sizes_.memory_heads * features;
    const float *const value = At(layout_.joined) + 2 * sizes_.key_width, *const phis =
                                                                              At(layout_.features);
    float* const inputs = At(layout_.decoder_inputs) + sizes_.token_width;
    T::ForEach(all * (width + 1), [&](size_t k) {
      const bool is_mass = k >= all * width;
      const size_t m = is_mass ? k - all * width : k / width;  // Of all heads.
      const float phi = phis[all + m], discount = weights_.discounts[m / features];
      float& number = is_mass ? at_.mass[m] : at_.content[k];
      number = fmaf(phi, is_mass ? 1.0F : value[k % width], discount * number);
    });
    T::ForEach(sizes_.memory_heads * width, [&](size_t k) {
      const size_t first = k / width * features;
      float above = 0, below = 0;
      for (size_t m = first; m < first + features; ++m) {
        above = fmaf(phis[m], at_.content[m * width + k % width], above);
        below = fmaf(phis[m], at_.mass[m], below);
      }
      inputs[k] = knobs_.gate_cam * QuotientOrZero(above, below);
    });
  }

  // A thread has a column of a head's memory. Queries and keys are divided by their sums.
  MNEMOSYNE_DEVICE void StepDelta() {
    const size_t width = sizes_.memory_width, features = sizes_.memory_map.features;
    const float* const value = At(layout_.joined) + 2 * sizes_.key_width;
    float* const inputs = At(layout_.decoder_inputs) + sizes_.token_width;
    T::ForEach(sizes_.memory_heads * width, [&](size_t k) {
      const size_t head = k / width, d = k % width;
      const float* const query = At(layout_.features) + head * features;
      const float* const key = query + sizes_.memory_heads * features;
      float* const content = at_.content + head * features * width + d;
      const float discount = weights_.discounts[head];
      const float strength = 1 / (1 + expf(-value[width + head]));
      float query_sum = 0, key_sum = 0, old = 0, read = 0;
      for (size_t m = 0; m < features; ++m) {
        query_sum += query[m];
        key_sum += key[m];
        old = fmaf(key[m], discount * content[m * width], old);
      }
      const float write = strength * (value[d] - QuotientOrZero(old, key_sum));
      for (size_t m = 0; m < features; ++m) {
        float& number = content[m * width];
        number = fmaf(QuotientOrZero(key[m], key_sum), write, discount * number);
        read = fmaf(query[m], number, read);
      }
      read = QuotientOrZero(read, query_sum);
      if (sizes_.write_rule == MnemosyneWriteRule::kRecurrentDelta) at_.mass[k] = read;
      inputs[k] = knobs_.gate_cam * read;
    });
  }

  MNEMOSYNE_DEVICE void AttendToOthers() {
    const size_t width = sizes_.memory_width, features = sizes_.context_map.features;
    float* const inputs =
        At(layout_.decoder_inputs) + sizes_.token_width + sizes_.memory_heads * width;
    T::ForEach(2 * width, [&](size_t k) {
      const float* const content = k < width ? at_.context_contents : at_.context_all;
      const float* const phi = at_.context_query + k / width * features;
      float above = 0, below = 0;
      for (size_t m = 0; m < features; ++m) {
        above = fmaf(phi[m], content[m * (width + 1) + k % width], above);
        below = fmaf(phi[m], content[m * (width + 1) + width], below);
      }
      inputs[k] =
          (k < width ? knobs_.gate_level2 : knobs_.gate_across) * QuotientOrZero(above, below);
    });
  }

  MNEMOSYNE_DEVICE void Decide() {
    float *const hidden = At(layout_.hidden), *const out = At(layout_.out);
    T::ForEach(sizes_.hidden, [&](size_t k) {
      hidden[k] = tanhf(OutputOf(weights_.decoder_hidden, At(layout_.decoder_inputs),
                                 DecoderInputCount(sizes_), sizes_.hidden, k));
    });
    T::ForEach(kDecisionCount, [&](size_t k) {
      out[k] = OutputOf(weights_.decision, hidden, sizes_.hidden, kDecisionCount, k);
    });
    T::ForEach(1, [&](size_t) {
      MnemosyneChoice& choice = *at_.choice;
      const float smoothing = knobs_.smoothing, fall = at_.step->fall;
      const auto approach = [&](float& current, float target) {
        current = fmaf(smoothing, target - current, current);
      };
      approach(choice.log_sharp, knobs_.gate_mixture * kSharpRange * tanhf(out[5]));
      approach(choice.log_fast, knobs_.gate_mixture * kFastRange * tanhf(out[1]));
      approach(choice.log_slow, knobs_.gate_mixture * kSlowRange * tanhf(out[2]));
      const float end = out[0] < 0 ? knobs_.eta_low : knobs_.eta_high;
      const float change = smoothing * (end * tanhf(2 * out[0] / end) - choice.log_step);
      choice.log_step += fminf(change, knobs_.eta_rise);
      choice.weight_sharp = knobs_.sharp_weight * fall * expf(choice.log_sharp);
      choice.weight_fast = knobs_.fast_weight * fall * expf(choice.log_fast);
      choice.weight_slow = knobs_.slow_weight * expf(choice.log_slow);
      choice.step = at_.tensor->prior_step * at_.step->warm * expf(choice.log_step);
      choice.level = at_.step->level;
      const float decay = knobs_.decay * expf(knobs_.gate_decay * kDecayRange * tanhf(out[4]));
      choice.shrink = at_.tensor->decays * decay * choice.step *
                      (choice.weight_sharp + choice.weight_fast + choice.weight_slow);
      const float growth =
          1 + knobs_.growth * expf(knobs_.gate_growth * kGrowthRange * tanhf(out[3]));
      out[kDecisionCount] = growth / (at_.step->age + growth - 1);
    });
  }

  MNEMOSYNE_DEVICE void WriteUpdates(double* square_sum, uint32_t* capped) {
    const Reading reading(*at_.choice, knobs_);
    const float rate = At(layout_.out)[kDecisionCount];
    memory_.SetInverseScale(*At(layout_.inverse_scale));
    T::ForEach(cells_, [&](size_t cell) {
      double sum = 0;
      for (size_t i = First(cell); i < End(cell); ++i) {
        const float inverse = InverseRoot(memory_.Square(i)), smooth = memory_.Fast(i) * inverse;
        const float sharp = reading.sharp_scale * (Gradient(i) * inverse), old = memory_.Slow(i);
        const float slow = memory_.PutSlow(i, fmaf(rate, sharp - old, old));
        at_.values[i] = reading.Update(sharp, smooth, slow, at_.gains[cell]);
        sum = fma(static_cast<double>(at_.values[i]), static_cast<double>(at_.values[i]), sum);
      }
      Parts()[cell] = sum;
    });
    T::ForEach(1, [&](size_t) {
      double total = 0;
      for (size_t cell = 0; cell < cells_; ++cell) total += Parts()[cell];
      const double limit = static_cast<double>(at_.step->limit);
      const double most = limit * limit * static_cast<double>(count_);
      at_.choice->cap = most < total ? sqrtf(static_cast<float>(most / total)) : 1.0F;
    });
    T::ForEach(cells_, [&](size_t cell) {
      double sum = 0;
      for (size_t i = First(cell); i < End(cell); ++i) {
        at_.values[i] *= at_.choice->cap;
        sum = fma(static_cast<double>(at_.values[i]), static_cast<double>(at_.values[i]), sum);
      }
      Parts()[cell] = sum;
    });
    Answer(square_sum, capped);
  }

  MNEMOSYNE_DEVICE void Answer(double* square_sum, uint32_t* capped) const {
    T::ForEach(1, [&](size_t) {
      double total = 0;
      for (size_t cell = 0; cell < cells_; ++cell) total += Parts()[cell];
      *square_sum = total;
      *capped = at_.choice->cap < 1 ? 1 : 0;
    });
  }

  const MnemosyneSizes& sizes_;
  const MnemosyneKnobs& knobs_;
  const MnemosyneWeights& weights_;
  const BlockScratch layout_;
  float* const scratch_;
  const MnemosyneChunkStep& at_;
  Memory memory_;
  const size_t count_, cells_;
};

}  // namespace mnemosyne::kernels::cuda
