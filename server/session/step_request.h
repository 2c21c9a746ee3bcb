// What a client says about a step, and what it is told.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "optim/optimizer.h"

namespace mnemosyne::server {

// The beginning of a step, as the client gave it.
struct StepRequest {
  int64_t number = 0;
  std::optional<double> loss;
  std::vector<double> learning_rate_factors;  // [groups], or empty for 1.
  std::vector<double> learning_rates;         // [groups], or empty for the rules' own.
  std::vector<float> parameter_rms;           // [parameters], or empty; for learned optimizers.
  std::vector<int32_t> absent_parameters;     // Without a gradient in this step.
};

// The answer to a step that was applied, or answered again.
struct StepOutcome {
  int64_t number = 0;
  bool replayed = false;
  double gradient_norm = 0;
  double update_norm = 0;
  double clip_factor = 1;
  int64_t non_finite_count = 0;
  std::vector<size_t> skipped;           // Left out for elements that are not finite.
  std::vector<bool> takes_part;          // [parameters]: has an update.
  std::vector<optim::UpdateRule> rules;  // [parameters]
  std::optional<optim::GuardReport> guard;
  double receive_seconds = 0;
  double queue_seconds = 0;
  double compute_seconds = 0;
};

}  // namespace mnemosyne::server
