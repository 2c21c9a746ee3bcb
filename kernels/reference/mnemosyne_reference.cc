#include "kernels/reference/mnemosyne_reference.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "kernels/mnemosyne_chunk.h"

namespace mnemosyne::kernels::reference {
namespace {

using Row = std::vector<double>;

// The sums over a cell's coordinates, in the order of metatrain's features.py.
enum CellSum : size_t {
  kSize,
  kGrad2,
  kOld2,
  kSquare,
  kSlow2,
  kPrevious2,
  kSharp2,
  kSmooth2,
  kGradOld,
  kSharpSlow,
  kSmoothSlow,
  kSharpPrevious,
};
using Sums = std::array<double, kCellSumCount>;

Row Dense(const DenseWeights& weights, const Row& x, size_t outputs) {
  Row y(weights.b, weights.b + outputs);
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t k = 0; k < outputs; ++k) y[k] += x[i] * weights.w[i * PaddedColumns(outputs) + k];
  }
  return y;
}

Row Tanh(Row x) {
  for (double& value : x) value = std::tanh(value);
  return x;
}

Row Concatenate(std::initializer_list<Row> parts) {
  Row all;
  for (const Row& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// x / sqrt(1 + |x|^2) of `width` numbers.
Row Unit(const double* x, size_t width) {
  double square = 1;
  for (size_t i = 0; i < width; ++i) square += x[i] * x[i];
  Row unit(x, x + width);
  for (double& value : unit) value /= std::sqrt(square);
  return unit;
}

// Queries, keys and values that were computed together.
struct Heads {
  Row query, key, value;

  Heads(const double* joined, size_t key_width, size_t value_width)
      : query(Unit(joined, key_width)),
        key(Unit(joined + key_width, key_width)),
        value(joined + 2 * key_width, joined + 2 * key_width + value_width) {}
};

Row Features(const FeatureMapSizes& sizes, const MapWeights& weights, const Row& x) {
  const size_t count = ProjectionCount(sizes);
  Row projected(count), phi;
  double half_square = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    half_square += 0.5 * x[i] * x[i];
    for (size_t k = 0; k < count; ++k)
      projected[k] += x[i] * weights.w[i * PaddedColumns(count) + k];
  }
  switch (sizes.shape) {
    case FeatureMapShape::kExponential:
      for (size_t k = 0; k < count; ++k) {
        const double bias = weights.b == nullptr ? 0 : weights.b[k];
        phi.push_back(sizes.scale * std::exp(projected[k] + bias - half_square));
      }
      break;
    case FeatureMapShape::kHyperbolic:
      for (const double sign : {1.0, -1.0}) {
        for (const double p : projected) {
          phi.push_back(sizes.scale * std::exp(sign * p - half_square));
        }
      }
      break;
    case FeatureMapShape::kRelu:
      for (const double p : projected)
        phi.push_back(sizes.scale * std::max(p, 0.0) + sizes.epsilon);
      break;
    case FeatureMapShape::kElu:
      for (const double value : x) phi.push_back(value > 0 ? value + 1 : std::exp(value));
      break;
    case FeatureMapShape::kDpfp: {
      Row both;
      for (const double value : x) both.push_back(std::max(value, 0.0));
      for (const double value : x) both.push_back(std::max(-value, 0.0));
      const size_t twice = both.size();
      for (size_t shift = 1; shift <= sizes.features / twice; ++shift) {
        for (size_t k = 0; k < twice; ++k) {
          phi.push_back(both[k] * both[(k + twice - shift % twice) % twice]);
        }
      }
      break;
    }
  }
  return phi;
}

double DivideOrZero(double above, double below) {
  return std::abs(below) > kDenominatorMin ? above / below : 0;
}

// phi^T N / phi^T Psi, with N [M, D] and Psi [M].
Row Read(const Row& phi, const Row& content, const Row& mass, size_t width) {
  Row out(width);
  double below = 0;
  for (size_t m = 0; m < phi.size(); ++m) {
    below += phi[m] * mass[m];
    for (size_t d = 0; d < width; ++d) out[d] += phi[m] * content[m * width + d];
  }
  for (double& value : out) value = DivideOrZero(value, below);
  return out;
}

double LogRatio(double above, double below) {
  if (!(above > kSquareMin) || !(below > kSquareMin)) return 0;
  const double limit = std::exp(2.0 * kLogRatioMax);
  return 0.25 * std::log(std::clamp(above / below, 1 / limit, limit));
}

double Cosine(double product, double left2, double right2) {
  if (!(left2 > kSquareMin) || !(right2 > kSquareMin)) return 0;
  return std::clamp(product / std::sqrt(left2) / std::sqrt(right2), -1.0, 1.0);
}

Row Statistics(const Sums& sums) {
  return {
      LogRatio(sums[kGrad2], sums[kSquare]),
      Cosine(sums[kGradOld], sums[kGrad2], sums[kOld2]),
      Cosine(sums[kSharpSlow], sums[kSharp2], sums[kSlow2]),
      Cosine(sums[kSmoothSlow], sums[kSmooth2], sums[kSlow2]),
      Cosine(sums[kSharpPrevious], sums[kSharp2], sums[kPrevious2]),
      LogRatio(sums[kSmooth2], sums[kSize]),
      LogRatio(sums[kSlow2], sums[kSize]),
      LogRatio(sums[kPrevious2], sums[kSize]),
      LogRatio(sums[kSharp2], sums[kSize]),
  };
}

// w0, w1 and w2.
struct Mixture {
  double sharp, fast, slow;
};

Mixture Weigh(const MnemosyneKnobs& knobs, const MnemosyneChoice& choice, double fall) {
  return {knobs.sharp_weight * fall * std::exp(choice.log_sharp),
          knobs.fast_weight * fall * std::exp(choice.log_fast),
          knobs.slow_weight * std::exp(choice.log_slow)};
}

// One chunk at work.
class Chunk {
 public:
  Chunk(const MnemosyneModel& model, const MnemosyneChunkStep& at)
      : sizes_(model.sizes),
        knobs_(model.knobs),
        weights_(model.weights),
        at_(at),
        choice_(*at.choice),
        tensor_step_(*at.step),
        count_(at.chunk->count),
        cells_(at.chunk->cells),
        sharp_(count_),
        gradient_(count_) {
    for (size_t i = 0; i < count_; ++i) {
      const double limit = kGradientMax;
      gradient_[i] = std::clamp(static_cast<double>(tensor_step_.gradient_scale) * at_.values[i],
                                -limit, limit);
    }
  }

  // The sum of the squares of the update.
  double Step() {
    const Mixture before = Weigh(knobs_, choice_, tensor_step_.fall);
    WriteMoments();
    MakeFeatures(before);
    EncodeCells();
    MakeToken();
    Remember();
    AttendToOthers();
    Decide();
    WriteSlow();
    return MakeUpdate();
  }

  double MakeUpdate() {
    double sum = 0;
    for (size_t i = 0; i < count_; ++i) {
      const double inverse = Inverse(i), smooth = at_.fast[i] * inverse;
      const double sharp = choice_.sharp_scale * gradient_[i] * inverse;
      double read = choice_.weight_fast * smooth + choice_.weight_slow * at_.slow[i] +
                    choice_.weight_sharp * sharp;
      read *= at_.gains[i / sizes_.cell_size];
      read += choice_.level * (knobs_.guard_share * smooth - read);
      at_.values[i] = static_cast<float>(-choice_.step * read);
      sum += static_cast<double>(at_.values[i]) * at_.values[i];
    }
    if (!replay_) {
      const double rms = std::sqrt(sum / static_cast<double>(count_));
      choice_.cap = rms > tensor_step_.limit ? static_cast<float>(tensor_step_.limit / rms) : 1;
    }
    for (size_t i = 0; i < count_; ++i) at_.values[i] *= choice_.cap;
    return sum * choice_.cap * choice_.cap;
  }

  double Replay() {
    replay_ = true;
    return MakeUpdate();
  }

 private:
  double Inverse(size_t i) const {
    return at_.square[i] > 0 ? 1 / (std::sqrt(static_cast<double>(at_.square[i])) + choice_.floor)
                             : 0;
  }

  void WriteMoments() {
    old_fast_.assign(at_.fast, at_.fast + count_);
    double sum = 0;
    for (size_t i = 0; i < count_; ++i) {
      const double g = gradient_[i], r = at_.fast[i], s = at_.square[i];
      at_.fast[i] = static_cast<float>(r + (g - r) * tensor_step_.rate_fast);
      at_.square[i] = static_cast<float>(s + (g * g - s) * tensor_step_.rate_square);
    }
    if (at_.rounding != nullptr) {
      Round(at_.fast, at_.rounding->key, &RandomBits);
      RoundSquares();
    }
    for (size_t i = 0; i < count_; ++i) sum += at_.square[i];
    old_mean_square_ = choice_.mean_square;
    choice_.floor = knobs_.epsilon * std::sqrt(choice_.mean_square);
    choice_.mean_square = static_cast<float>(sum / static_cast<double>(count_));
  }

  // To 16 bits.
  void Round(float* numbers, uint32_t key, uint32_t (*random)(uint32_t, uint32_t)) const {
    for (size_t i = 0; i < count_; ++i) {
      const auto position = static_cast<uint32_t>(at_.rounding->first + i);
      numbers[i] = RoundToBrain(numbers[i], random(key, position));
    }
  }

  void RoundSquares() const {
    const MnemosyneRounding& rounding = *at_.rounding;
    const float scale = InverseRootScale(*std::max_element(at_.square, at_.square + count_));
    *rounding.inverse_scale = scale;
    for (size_t i = 0; i < count_; ++i) {
      const auto position = static_cast<uint32_t>(rounding.first + i);
      rounding.roots[i] =
          PackHalf(std::sqrt(at_.square[i]) * scale, RandomBits(rounding.key, position));
      at_.square[i] = UnpackSquare(rounding.roots[i], scale);
    }
  }

  void MakeFeatures(const Mixture& before) {
    std::vector<Sums> sums(cells_, Sums{});
    for (size_t i = 0; i < count_; ++i) {
      const double g = gradient_[i], old = old_fast_[i], inverse = Inverse(i), slow = at_.slow[i];
      const double sharp = g * inverse, smooth = at_.fast[i] * inverse;
      const double previous = before.fast * old * inverse + before.slow * slow;
      sharp_[i] = sharp;
      const Sums terms = {1,
                          g * g,
                          old * old,
                          at_.square[i],
                          slow * slow,
                          previous * previous,
                          sharp * sharp,
                          smooth * smooth,
                          g * old,
                          sharp * slow,
                          smooth * slow,
                          sharp * previous};
      Sums& cell = sums[i / sizes_.cell_size];
      for (size_t k = 0; k < kCellSumCount; ++k) cell[k] += terms[k];
    }
    Sums all = {};
    for (const Sums& cell : sums) {
      for (size_t k = 0; k < kCellSumCount; ++k) all[k] += cell[k];
    }
    const double rms = std::sqrt(all[kSharp2] / static_cast<double>(count_));
    const double limit = knobs_.write_limit;
    choice_.sharp_scale = static_cast<float>(limit / std::max(rms, limit));
    for (const Sums& cell : sums) {
      Row features = Statistics(cell);
      features.push_back(LogRatio(cell[kSquare], cell[kSize] * (all[kSquare] / all[kSize])));
      features.push_back(LogRatio(cell[kSlow2], cell[kSize] * (all[kSlow2] / all[kSize])));
      tokens_.push_back(Tanh(Dense(weights_.embed, features, sizes_.cell_width)));
    }
    chunk_features_ = Statistics(all);
    const auto count = static_cast<double>(count_);
    chunk_features_.push_back(LogRatio(old_mean_square_ * count, count * at_.tensor_mean_square));
    chunk_features_.push_back(0.25 * choice_.log_step);
    for (const float condition : tensor_step_.conditions) chunk_features_.push_back(condition);
  }

  // Level 1: attention among the cells, with positions, and a perceptron.
  void EncodeCells() {
    const size_t width = sizes_.cell_width, features = sizes_.cell_map.features;
    std::vector<Row> queries;
    Row content(features * width), mass(features);
    for (size_t cell = 0; cell < cells_; ++cell) {
      const Row joined = Dense(weights_.cell_heads, tokens_[cell], 2 * sizes_.key_width + width);
      const Heads heads(joined.data(), sizes_.key_width, width);
      Row query_position, key_position;
      for (size_t i = 0; i < sizes_.positional; ++i) {
        query_position.push_back(knobs_.gate_flt * at_.positions[i * cells_ + cell]);
        key_position.push_back(knobs_.gate_flt *
                               at_.positions[(sizes_.positional + i) * cells_ + cell]);
      }
      queries.push_back(
          Features(sizes_.cell_map, weights_.cell_map, Concatenate({heads.query, query_position})));
      const Row key =
          Features(sizes_.cell_map, weights_.cell_map, Concatenate({heads.key, key_position}));
      for (size_t m = 0; m < features; ++m) {
        mass[m] += key[m];
        for (size_t d = 0; d < width; ++d) content[m * width + d] += key[m] * heads.value[d];
      }
    }
    for (size_t cell = 0; cell < cells_; ++cell) {
      Row& token = tokens_[cell];
      const Row merged = Dense(weights_.merge, Read(queries[cell], content, mass, width), width);
      for (size_t d = 0; d < width; ++d) token[d] += knobs_.gate_level1 * merged[d];
      Row hidden = Dense(weights_.expand, token, sizes_.cell_hidden);
      for (double& value : hidden) value = std::max(value, 0.0);
      const Row contracted = Dense(weights_.contract, hidden, width);
      for (size_t d = 0; d < width; ++d) token[d] += contracted[d];
      const double log_gain = std::log(4.0) * std::tanh(Dense(weights_.gain, token, 1)[0]);
      at_.gains[cell] = static_cast<float>(std::exp(knobs_.gate_cell_gain * log_gain));
    }
  }

  void MakeToken() {
    Row mean(sizes_.cell_width);
    for (const Row& token : tokens_) {
      for (size_t d = 0; d < mean.size(); ++d) mean[d] += token[d] / static_cast<double>(cells_);
    }
    token_ = Tanh(Dense(weights_.pool, Concatenate({mean, chunk_features_}), sizes_.token_width));
    std::copy(token_.begin(), token_.end(), at_.token);
    decoder_inputs_ = token_;
  }

  // The memory in time.
  void Remember() {
    const size_t width = sizes_.memory_width, features = sizes_.memory_map.features;
    Row joined = Dense(weights_.memory_heads, token_, 2 * sizes_.key_width + width);
    Row strengths(sizes_.memory_heads);
    if (sizes_.write_rule != MnemosyneWriteRule::kAdditive) {
      strengths = Dense(weights_.memory_strengths, token_, sizes_.memory_heads);
    }
    if (sizes_.write_rule == MnemosyneWriteRule::kRecurrentDelta) {
      const Row last = Tanh(Row(at_.mass, at_.mass + sizes_.memory_heads * width));
      const size_t stride = PaddedColumns(RecurrentOutputCount(sizes_));
      for (size_t i = 0; i < last.size(); ++i) {
        const float* const row = weights_.recurrent + i * stride;
        for (size_t k = 0; k < joined.size(); ++k) joined[k] += last[i] * row[k];
        for (size_t j = 0; j < strengths.size(); ++j) {
          strengths[j] += last[i] * row[joined.size() + j];
        }
      }
    }
    const Heads heads(joined.data(), sizes_.key_width, width);
    for (size_t head = 0; head < sizes_.memory_heads; ++head) {
      const Row query = Features(sizes_.memory_map, weights_.memory_maps[head], heads.query);
      const Row key = Features(sizes_.memory_map, weights_.memory_maps[head], heads.key);
      float* const content = at_.content + head * features * width;
      Row read;
      if (sizes_.write_rule == MnemosyneWriteRule::kAdditive) {
        read = StepAdditive(weights_.discounts[head], query, key, heads.value, content,
                            at_.mass + head * features);
      } else {
        const double strength = 1 / (1 + std::exp(-strengths[head]));
        read = StepDelta(weights_.discounts[head], strength, query, key, heads.value, content);
      }
      if (sizes_.write_rule == MnemosyneWriteRule::kRecurrentDelta) {
        std::copy(read.begin(), read.end(), at_.mass + head * width);
      }
      for (const double value : read) decoder_inputs_.push_back(knobs_.gate_cam * value);
    }
  }

  static Row StepAdditive(double discount, const Row& query, const Row& key, const Row& value,
                          float* content, float* mass) {
    const size_t features = key.size(), width = value.size();
    for (size_t m = 0; m < features; ++m) {
      mass[m] = static_cast<float>(discount * mass[m] + key[m]);
      for (size_t d = 0; d < width; ++d) {
        float& number = content[m * width + d];
        number = static_cast<float>(discount * number + key[m] * value[d]);
      }
    }
    return Read(query, Row(content, content + features * width), Row(mass, mass + features), width);
  }

  static Row StepDelta(double discount, double strength, Row query, Row key, const Row& value,
                       float* content) {
    for (Row* const row : {&query, &key}) {
      double sum = 0;
      for (const double x : *row) sum += x;
      for (double& x : *row) x = DivideOrZero(x, sum);
    }
    const size_t features = key.size(), width = value.size();
    Row read(width);
    for (size_t d = 0; d < width; ++d) {
      double old = 0;
      for (size_t m = 0; m < features; ++m) old += key[m] * discount * content[m * width + d];
      for (size_t m = 0; m < features; ++m) {
        float& number = content[m * width + d];
        number = static_cast<float>(discount * number + strength * key[m] * (value[d] - old));
        read[d] += query[m] * number;
      }
    }
    return read;
  }

  void AttendToOthers() {
    const size_t width = sizes_.memory_width, features = sizes_.context_map.features;
    const float* const contents[] = {at_.context_contents, at_.context_all};
    const float gates[] = {knobs_.gate_level2, knobs_.gate_across};
    for (size_t head = 0; head < 2; ++head) {
      const float* const phi = at_.context_query + head * features;
      Row content, mass;
      for (size_t m = 0; m < features; ++m) {
        const float* const row = contents[head] + m * (width + 1);
        content.insert(content.end(), row, row + width);
        mass.push_back(row[width]);
      }
      for (const double value : Read(Row(phi, phi + features), content, mass, width)) {
        decoder_inputs_.push_back(gates[head] * value);
      }
    }
  }

  void Decide() {
    const Row hidden = Tanh(Dense(weights_.decoder_hidden, decoder_inputs_, sizes_.hidden));
    const Row out = Dense(weights_.decision, hidden, kDecisionCount);
    const double smoothing = knobs_.smoothing;
    const auto approach = [&](float& current, double target) {
      current = static_cast<float>(current + smoothing * (target - current));
    };
    approach(choice_.log_sharp, knobs_.gate_mixture * kSharpRange * std::tanh(out[5]));
    approach(choice_.log_fast, knobs_.gate_mixture * kFastRange * std::tanh(out[1]));
    approach(choice_.log_slow, knobs_.gate_mixture * kSlowRange * std::tanh(out[2]));
    const double low = knobs_.eta_low, high = knobs_.eta_high, x = 2 * out[0];
    const double target = x < 0 ? -low * std::tanh(x / -low) : high * std::tanh(x / high);
    const double change = smoothing * (target - choice_.log_step);
    choice_.log_step =
        static_cast<float>(choice_.log_step + std::min<double>(change, knobs_.eta_rise));
    growth_ = 1 + knobs_.growth * std::exp(knobs_.gate_growth * kGrowthRange * std::tanh(out[3]));
    const double decay =
        knobs_.decay * std::exp(knobs_.gate_decay * kDecayRange * std::tanh(out[4]));

    const Mixture weights = Weigh(knobs_, choice_, tensor_step_.fall);
    const double step = at_.tensor->prior_step * tensor_step_.warm *
                        std::exp(static_cast<double>(choice_.log_step));
    choice_.weight_sharp = static_cast<float>(weights.sharp);
    choice_.weight_fast = static_cast<float>(weights.fast);
    choice_.weight_slow = static_cast<float>(weights.slow);
    choice_.step = static_cast<float>(step);
    choice_.level = tensor_step_.level;
    choice_.shrink = static_cast<float>(at_.tensor->decays * decay * step *
                                        (weights.sharp + weights.fast + weights.slow));
  }

  void WriteSlow() {
    const double rate = growth_ / (tensor_step_.age + growth_ - 1);
    for (size_t i = 0; i < count_; ++i) {
      const double sharp = choice_.sharp_scale * sharp_[i];
      at_.slow[i] = static_cast<float>(at_.slow[i] + rate * (sharp - at_.slow[i]));
    }
    if (at_.rounding != nullptr) Round(at_.slow, at_.rounding->slow_key, &RandomHalf);
  }

  const MnemosyneSizes& sizes_;
  const MnemosyneKnobs& knobs_;
  const MnemosyneWeights& weights_;
  const MnemosyneChunkStep& at_;
  MnemosyneChoice& choice_;
  const MnemosyneTensorStep& tensor_step_;
  const size_t count_, cells_;
  bool replay_ = false;
  Row sharp_, gradient_, old_fast_;
  double old_mean_square_ = 0;
  std::vector<Row> tokens_;
  Row chunk_features_, token_, decoder_inputs_;
  double growth_ = 1;
};

}  // namespace

void MnemosyneContext(const MnemosyneContextArgs& args) {
  const MnemosyneSizes& sizes = args.model.sizes;
  const MnemosyneMemory& memory = args.memory;
  const size_t width = sizes.memory_width, features = sizes.context_map.features;
  const size_t head_size = 2 * sizes.key_width + width, size = ContextContentCount(sizes);
  Row all(size);
  for (size_t t = 0; t < memory.tensors.size(); ++t) {
    const MnemosyneTensor& tensor = memory.tensors[t];
    Row own(size);
    MnemosyneTensorSums& sums = args.sums[t];
    sums = {};
    for (size_t c = tensor.first_chunk; c < tensor.first_chunk + tensor.chunk_count; ++c) {
      const float* const token = memory.tokens + c * sizes.token_width;
      const Row joined = Dense(args.model.weights.context_heads,
                               Row(token, token + sizes.token_width), 2 * head_size);
      for (size_t head = 0; head < 2; ++head) {
        const Heads heads(joined.data() + head * head_size, sizes.key_width, width);
        const Row query = Features(sizes.context_map, args.model.weights.context_map, heads.query);
        const Row key = Features(sizes.context_map, args.model.weights.context_map, heads.key);
        std::copy(query.begin(), query.end(), memory.context_queries + (2 * c + head) * features);
        Row& content = head == 0 ? own : all;
        for (size_t m = 0; m < features; ++m) {
          for (size_t d = 0; d < width; ++d) {
            content[m * (width + 1) + d] += key[m] * heads.value[d];
          }
          content[m * (width + 1) + width] += key[m];
        }
      }
      const MnemosyneChoice& choice = memory.choices[c];
      sums.mean_square += static_cast<double>(choice.mean_square) * memory.chunks[c].count /
                          static_cast<double>(tensor.count);
      sums.shrink += static_cast<double>(choice.shrink) / static_cast<double>(tensor.chunk_count);
    }
    sums.shrink = std::min(sums.shrink, kShrinkMax);
    std::copy(own.begin(), own.end(), memory.context_contents + t * size);
  }
  std::copy(all.begin(), all.end(), memory.context_contents + memory.tensors.size() * size);
}

void MnemosyneStep(const MnemosyneStepArgs& args) {
  for (size_t k = 0; k < args.parameters.size(); ++k) {
    const MnemosyneTensor& tensor = args.memory.tensors[args.parameters[k]];
    args.square_sums[k] = 0;
    args.capped[k] = 0;
    for (size_t c = tensor.first_chunk; c < tensor.first_chunk + tensor.chunk_count; ++c) {
      MnemosyneChunkStep at = ChunkStep(args, k, c);
      std::vector<float> floats(3 * kMnemosyneChunkMax);
      std::optional<HalfChunk> half;
      if (args.memory.is_half()) half.emplace(args, k, c, floats.data(), at);
      Chunk chunk(args.model, at);
      args.square_sums[k] += args.replay ? chunk.Replay() : chunk.Step();
      if (half && !args.replay) half->PutBack();
      args.capped[k] += at.choice->cap < 1 ? 1 : 0;
    }
  }
}

}  // namespace mnemosyne::kernels::reference
