#include "kernels/reference/flt_reference.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>
#include <random>
#include <unsupported/Eigen/FFT>

#include "base/check.h"
#include "kernels/components/feature_map.h"

namespace mnemosyne::kernels::reference {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr double kMagnitudeSmoothing = 1e-12;
constexpr uint64_t kSpeSeed = 1;
constexpr size_t kSpeRealizations = 64;

double ScaleOf(const FltProblem& p) {
  return p.config.scale == 0 ? 1 / std::sqrt(static_cast<double>(p.config.dim))
                             : static_cast<double>(p.config.scale);
}

// The first row of the sequence that a row is in.
size_t OriginOf(const FltProblem& p, size_t row) {
  size_t origin = 0;
  for (const size_t start : p.sequence_starts) {
    if (start <= row) origin = start;
  }
  return origin;
}

double Turns(const FltProblem& p, size_t head, size_t wave, size_t row) {
  double turns = 0;
  const size_t origin = OriginOf(p, row);
  for (size_t axis = 0; axis < p.positions; ++axis) {
    const double product = p.frequencies[(head * p.waves + wave) * p.positions + axis] *
                           (p.at[row * p.positions + axis] - p.at[origin * p.positions + axis]);
    turns += product - std::nearbyint(product);
  }
  return turns;
}

// A row of q or k, scaled, with its waves behind in the additive form.
std::vector<double> Input(const FltProblem& p, size_t batch, size_t head, size_t row, bool key) {
  const size_t dim = p.config.dim;
  const double* const from =
      (key ? p.k : p.q).data() + ((batch * p.config.heads + head) * p.length + row) * dim;
  std::vector<double> x(from, from + dim);
  for (double& number : x) number *= std::sqrt(ScaleOf(p));
  if (p.config.form != MaskForm::kAdditive) return x;
  std::vector<double> second;
  for (size_t m = 0; m < p.waves; ++m) {
    const double angle = 2 * kPi * Turns(p, head, m, row);
    const double a = p.real[head * p.waves + m], b = p.imaginary[head * p.waves + m];
    const double root = std::sqrt(std::sqrt(a * a + b * b + kMagnitudeSmoothing));
    const double c = std::cos(angle), s = std::sin(angle);
    x.push_back(key ? (a * c + b * s) / root : root * c);
    second.push_back(key ? (a * s - b * c) / root : root * s);
  }
  x.insert(x.end(), second.begin(), second.end());
  return x;
}

FeatureMapConfig MapConfig(const FltProblem& p, size_t inputs) {
  return {.kind = p.config.feature_map,
          .inputs = inputs,
          .features = p.config.features,
          .square_sum = p.config.square_sum,
          .epsilon = p.config.epsilon,
          .size_max = kFltInputMax};
}

// Features of a row; logarithms for exponential maps.
std::vector<double> Features(const FltProblem& p, size_t head, const std::vector<double>& x) {
  const size_t inputs = x.size();
  const size_t rows = *ProjectionRows(MapConfig(p, inputs));
  const bool per_head = p.projection.size() > rows * inputs;
  const double* const projection = p.projection.data() + (per_head ? head * rows * inputs : 0);
  const std::string& kind = p.config.feature_map;
  double half = 0;
  for (const double number : x) half += 0.5 * number * number;
  double a = 0, b = 1;
  if (kind == "favor_plus_plus") {
    const std::vector<float> zero(rows * inputs);
    const auto map = MakeFeatureMap(MapConfig(p, inputs), zero);
    a = map->bias_factor;
    b = map->projection_factor;
  }
  std::vector<double> logits;
  for (size_t row = 0; row < rows; ++row) {
    double dot = 0, square = 0;
    for (size_t i = 0; i < inputs; ++i) {
      const double w = projection[row * inputs + i];
      dot += w * x[i];
      square += w * w;
    }
    logits.push_back(a * square + b * dot);
  }
  std::vector<double> features;
  if (kind == "relu") {
    const double scale = 1 / std::sqrt(static_cast<double>(p.config.features));
    for (const double l : logits) features.push_back(scale * std::max(l, 0.0) + p.config.epsilon);
  } else if (kind == "elu") {
    for (const double number : x) features.push_back(number > 0 ? number + 1 : std::exp(number));
  } else if (kind == "dpfp") {
    std::vector<double> r;
    for (const double number : x) r.push_back(std::max(number, 0.0));
    for (const double number : x) r.push_back(std::max(-number, 0.0));
    for (size_t shift = 1; shift <= p.config.features / r.size(); ++shift) {
      for (size_t i = 0; i < r.size(); ++i) {
        features.push_back(r[i] * r[(i + r.size() - shift % r.size()) % r.size()]);
      }
    }
  } else {
    for (const double l : logits) features.push_back(l - half);
    if (kind == "hyperbolic") {
      for (const double l : logits) features.push_back(-l - half);
    }
  }
  return features;
}

bool Sees(const FltProblem& p, size_t batch, size_t row, size_t key) {
  if (p.causal && key > row) return false;
  if (!p.mask.empty() && p.mask[batch * p.length + key] == 0) return false;
  if (!p.mask.empty() && p.mask[batch * p.length + row] == 0) return false;
  for (size_t s = 0; s + 1 < p.sequence_starts.size(); ++s) {
    const auto inside = [&](size_t i) {
      return i >= p.sequence_starts[s] && i < p.sequence_starts[s + 1];
    };
    if (inside(row) != inside(key)) return false;
  }
  return true;
}

bool Multiplies(const FltProblem& p) {
  return p.config.form == MaskForm::kMultiplicative && p.waves > 0;
}

// The floor of a head's denominators over the plain ones; 0 where masks are never negative.
double Floor(const FltProblem& p, size_t head) {
  if (!Multiplies(p) || !p.config.clamp_negative_masks) return 0;
  double norm = 0;
  for (size_t m = 0; m < p.waves; ++m) {
    norm += std::hypot(p.real[head * p.waves + m], p.imaginary[head * p.waves + m]);
  }
  if (p.constant[head] >= norm) return 0;
  return static_cast<double>(kFltClampShare) * (std::abs(p.constant[head]) + norm);
}

// Logarithms of K(q_i, k_j) for all pairs, but for a number a row; for maps that are no
// exponentials, too.
std::vector<double> LogKernel(const FltProblem& p, AttentionMethod method, size_t batch,
                              size_t head) {
  const size_t length = p.length;
  std::vector<double> logs(length * length);
  if (method == AttentionMethod::kExactSoftmax || method == AttentionMethod::kUrpe) {
    const size_t dim = p.config.dim;
    const double* const q = p.q.data() + (batch * p.config.heads + head) * length * dim;
    const double* const k = p.k.data() + (batch * p.config.heads + head) * length * dim;
    for (size_t i = 0; i < length; ++i) {
      for (size_t j = 0; j < length; ++j) {
        double dot = 0;
        for (size_t d = 0; d < dim; ++d) dot += q[i * dim + d] * k[j * dim + d];
        logs[i * length + j] = ScaleOf(p) * dot;
      }
    }
    return logs;
  }
  FltProblem plain = p;
  if (method == AttentionMethod::kToeplitz) plain.config.form = MaskForm::kMultiplicative;
  std::vector<std::vector<double>> queries, keys;
  for (size_t i = 0; i < length; ++i) {
    queries.push_back(Features(plain, head, Input(plain, batch, head, i, false)));
    keys.push_back(Features(plain, head, Input(plain, batch, head, i, true)));
  }
  const std::string& kind = p.config.feature_map;
  const bool exponential = kind != "relu" && kind != "elu" && kind != "dpfp";
  for (size_t i = 0; i < length; ++i) {
    for (size_t j = 0; j < length; ++j) {
      const std::vector<double>&a = queries[i], &b = keys[j];
      double sum = 0, most = 0;
      if (exponential) {
        most = a[0] + b[0];
        for (size_t m = 0; m < a.size(); ++m) most = std::max(most, a[m] + b[m]);
      }
      for (size_t m = 0; m < a.size(); ++m) {
        sum += exponential ? std::exp(a[m] + b[m] - most) : a[m] * b[m];
      }
      logs[i * length + j] = std::log(sum) + most;
    }
  }
  return logs;
}

}  // namespace

FltProblem MakeProblem(const FltKernel& kernel) {
  FltProblem p;
  p.config = kernel.config;
  p.positions = kernel.sizes.positions;
  p.waves = kernel.sizes.waves;
  const auto copy = [](const std::vector<float>& from, std::vector<double>& to) {
    to.assign(from.begin(), from.end());
  };
  copy(kernel.waves.frequencies, p.frequencies);
  copy(kernel.waves.real, p.real);
  copy(kernel.waves.imaginary, p.imaginary);
  copy(kernel.waves.constant, p.constant);
  copy(kernel.projection, p.projection);
  return p;
}

double MaskAt(const FltProblem& p, size_t head, size_t row, size_t key) {
  double mask =
      p.config.form == MaskForm::kMultiplicative ? (p.waves > 0 ? p.constant[head] : 1) : 0;
  for (size_t m = 0; m < p.waves; ++m) {
    const double angle = 2 * kPi * (Turns(p, head, m, row) - Turns(p, head, m, key));
    mask += p.real[head * p.waves + m] * std::cos(angle) -
            p.imaginary[head * p.waves + m] * std::sin(angle);
  }
  return mask;
}

std::vector<double> AttentionMatrix(const FltProblem& p, AttentionMethod method, size_t batch,
                                    size_t head) {
  const size_t length = p.length;
  std::vector<double> weights = LogKernel(p, method, batch, head);
  const bool additive = p.config.form == MaskForm::kAdditive;
  const bool adds = additive && method == AttentionMethod::kExactSoftmax;
  const bool multiplies = Multiplies(p) && method != AttentionMethod::kUrpe;
  for (size_t i = 0; i < length; ++i) {
    double* const row = weights.data() + i * length;
    double most = -1e300;
    for (size_t j = 0; j < length; ++j) {
      if (!Sees(p, batch, i, j)) continue;
      if (adds) row[j] += MaskAt(p, head, i, j);
      most = std::max(most, row[j]);
    }
    double sum = 0, plain = 0;
    for (size_t j = 0; j < length; ++j) {
      row[j] = Sees(p, batch, i, j) ? std::exp(row[j] - most) : 0;
      plain += row[j];
      if (multiplies) row[j] *= MaskAt(p, head, i, j);
      sum += row[j];
    }
    sum = std::max(sum, Floor(p, head) * plain);
    for (size_t j = 0; j < length; ++j) {
      row[j] = sum > 0 ? row[j] / sum : 0;
      if (method == AttentionMethod::kUrpe) row[j] *= MaskAt(p, head, i, j);
    }
  }
  return weights;
}

namespace {

// Numerators and denominators by circular convolutions of phi(k) v^T with the mask.
// Source: arXiv 2106.12566.
std::vector<double> ToeplitzHead(const FltProblem& p, size_t batch, size_t head) {
  const size_t length = p.length, width = p.config.value_dim;
  FltProblem plain = p;
  plain.config.form = MaskForm::kMultiplicative;
  const bool additive = p.config.form == MaskForm::kAdditive;
  size_t size = 1;
  while (size < 2 * length) size *= 2;
  using Complex = std::complex<double>;
  // mask[d] is that of the offset d, from -(length - 1) on at the end.
  std::vector<Complex> mask(size), spectrum;
  const auto value = [&](size_t row, size_t key) {
    if (p.waves == 0) return 1.0;
    const double at = MaskAt(p, head, row, key);
    return additive ? std::exp(at) : at;
  };
  for (size_t d = 0; d < length; ++d) mask[d] = value(d, 0);
  for (size_t d = 1; d < length && !p.causal; ++d) mask[size - d] = value(0, d);
  Eigen::FFT<double> fft;
  fft.fwd(spectrum, mask);
  std::vector<std::vector<double>> queries, keys;
  const std::string& kind = p.config.feature_map;
  const bool exponential = kind != "relu" && kind != "elu" && kind != "dpfp";
  double most = -1e300;
  for (size_t i = 0; i < length; ++i) {
    queries.push_back(Features(plain, head, Input(plain, batch, head, i, false)));
    keys.push_back(Features(plain, head, Input(plain, batch, head, i, true)));
    for (const double a : keys.back()) most = std::max(most, a);
    if (!exponential) continue;
    const double row_most = *std::ranges::max_element(queries.back());
    for (double& a : queries.back()) a = std::exp(a - row_most);
  }
  if (exponential) {
    for (auto& row : keys) {
      for (double& a : row) a = std::exp(a - most);
    }
  }
  const double* const v = p.v.data() + (batch * p.config.heads + head) * length * width;
  std::vector<double> above(length * width), below(length);
  for (size_t m = 0; m < keys[0].size(); ++m) {
    for (size_t d = 0; d <= width; ++d) {  // The last column is that of the denominator.
      std::vector<Complex> column(size), transformed;
      for (size_t j = 0; j < length; ++j) {
        if (!p.mask.empty() && p.mask[batch * length + j] == 0) continue;
        column[j] = keys[j][m] * (d < width ? v[j * width + d] : 1);
      }
      fft.fwd(transformed, column);
      for (size_t i = 0; i < size; ++i) transformed[i] *= spectrum[i];
      fft.inv(column, transformed);
      for (size_t i = 0; i < length; ++i) {
        (d < width ? above[i * width + d] : below[i]) += queries[i][m] * column[i].real();
      }
    }
  }
  for (size_t i = 0; i < length; ++i) {
    const bool valid = p.mask.empty() || p.mask[batch * length + i] != 0;
    for (size_t d = 0; d < width; ++d) {
      above[i * width + d] = valid && below[i] != 0 ? above[i * width + d] / below[i] : 0;
    }
  }
  return above;
}

}  // namespace

// q^_r = R^(-1/2) sum_d q_d sum_m (waves of the query)_m z_dmr, the same with k: over the noise z,
// E[q^_i . k^_j] = (q_i . k_j) f(r_i - r_j), or with T in place of f.
SpeRows MakeSpeRows(const FltProblem& p, size_t realizations, uint64_t seed) {
  MNEMO_CHECK(p.waves > 0);
  const size_t dim = p.config.dim, heads = p.config.heads, all = 2 * p.waves + 1;
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  SpeRows result;
  result.q.assign(p.batch * heads * p.length * realizations, 0);
  result.k = result.q;
  FltProblem waves_only = p;  // Its inputs end with the waves.
  waves_only.config.form = MaskForm::kAdditive;
  const double unit = 1 / std::sqrt(static_cast<double>(realizations));
  for (size_t head = 0; head < heads; ++head) {
    std::vector<double> noise(dim * all * realizations);
    for (double& z : noise) z = normal(random);
    const double constant =
        p.config.form == MaskForm::kMultiplicative ? std::max(p.constant[head], 0.0) : 0;
    for (size_t batch = 0; batch < p.batch; ++batch) {
      for (size_t row = 0; row < p.length; ++row) {
        for (const bool key : {false, true}) {
          const std::vector<double> x = Input(waves_only, batch, head, row, key);
          double* const out = (key ? result.k : result.q).data() +
                              ((batch * heads + head) * p.length + row) * realizations;
          for (size_t d = 0; d < dim; ++d) {
            for (size_t w = 0; w < all; ++w) {
              const double wave = w + 1 == all ? std::sqrt(constant) : x[dim + w];
              const double* const z = noise.data() + (d * all + w) * realizations;
              for (size_t r = 0; r < realizations; ++r) out[r] += unit * x[d] * wave * z[r];
            }
          }
        }
      }
    }
  }
  return result;
}

std::vector<double> Attend(const FltProblem& p, AttentionMethod method) {
  const size_t length = p.length, width = p.config.value_dim;
  if (method == AttentionMethod::kSpe) {
    SpeRows rows = MakeSpeRows(p, kSpeRealizations, kSpeSeed);
    FltProblem noisy = p;
    noisy.config.dim = kSpeRealizations;
    noisy.config.scale = 1;
    noisy.config.feature_map = "elu";
    noisy.config.features = kSpeRealizations;
    noisy.config.form = MaskForm::kAdditive;
    noisy.waves = 0;
    noisy.projection.clear();
    noisy.q = std::move(rows.q);
    noisy.k = std::move(rows.k);
    return Attend(noisy, AttentionMethod::kFlt);
  }
  std::vector<double> out;
  for (size_t batch = 0; batch < p.batch; ++batch) {
    for (size_t head = 0; head < p.config.heads; ++head) {
      if (method == AttentionMethod::kToeplitz) {
        const std::vector<double> rows = ToeplitzHead(p, batch, head);
        out.insert(out.end(), rows.begin(), rows.end());
        continue;
      }
      const std::vector<double> weights = AttentionMatrix(p, method, batch, head);
      const double* const v = p.v.data() + (batch * p.config.heads + head) * length * width;
      for (size_t i = 0; i < length; ++i) {
        for (size_t d = 0; d < width; ++d) {
          double sum = 0;
          for (size_t j = 0; j < length; ++j) sum += weights[i * length + j] * v[j * width + d];
          out.push_back(sum);
        }
      }
    }
  }
  return out;
}

}  // namespace mnemosyne::kernels::reference
