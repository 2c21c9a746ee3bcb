#include "client/cpp/ctl/step_benchmark.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::ctl {
namespace {

using std::chrono::steady_clock;
using Model = std::vector<std::vector<float>>;

double SecondsBetween(steady_clock::time_point begin, steady_clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// Deletes its session at its end.
class ScopedSession {
 public:
  ScopedSession(Client& client, SessionKey key) : client_(client), key_(std::move(key)) {}
  ~ScopedSession() { client_.DeleteSession(key_).IgnoreError(); }
  ScopedSession(const ScopedSession&) = delete;
  ScopedSession& operator=(const ScopedSession&) = delete;

  const SessionKey& key() const { return key_; }

 private:
  Client& client_;
  const SessionKey key_;
};

// Sizes of tensors that are as equal as they can be.
std::vector<size_t> TensorSizes(const StepBenchmarkOptions& options) {
  const auto tensors = static_cast<size_t>(options.tensors);
  const auto elements = static_cast<size_t>(options.elements);
  std::vector<size_t> sizes(tensors, elements / tensors);
  for (size_t i = 0; i < elements % tensors; ++i) ++sizes[i];
  return sizes;
}

v1::SessionSpec MakeSpec(const StepBenchmarkOptions& options) {
  v1::SessionSpec spec;
  spec.set_optimizer(options.optimizer);
  spec.set_label("mnemosynectl bench");
  for (const size_t size : TensorSizes(options)) {
    auto* parameter = spec.add_parameters();
    parameter->set_name("tensor" + std::to_string(spec.parameters_size()));
    parameter->add_shape(static_cast<int64_t>(size));
    parameter->set_data_type(v1::DATA_TYPE_FLOAT32);
  }
  return spec;
}

// One session that is stepped, with its tensors and what was measured.
class Worker {
 public:
  Worker(Client& client, const StepBenchmarkOptions& options)
      : client_(client), options_(options) {}

  absl::Status Prepare() {
    MNEMO_ASSIGN_OR_RETURN(const auto created, client_.CreateSession(MakeSpec(options_)));
    state_bytes_ = created.session.state_bytes();
    session_ = std::make_unique<ScopedSession>(client_, created.key());
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> values(-0.01F, 0.01F);
    for (const size_t size : TensorSizes(options_)) {
      std::ranges::generate(gradients_.emplace_back(size), [&] { return values(random); });
      updates_.emplace_back(size);
    }
    StreamOptions stream_options;
    stream_options.gradient_encoding = options_.encoding;
    stream_options.update_encoding = options_.encoding;
    stream_options.step_timeout = std::chrono::seconds(60);
    MNEMO_ASSIGN_OR_RETURN(stream_, client_.OpenStream(session_->key(), stream_options));
    for (int64_t i = 0; i < options_.warmup_steps; ++i) MNEMO_RETURN_IF_ERROR(Step());
    step_.clear();
    receive_.clear();
    queue_.clear();
    compute_.clear();
    return absl::OkStatus();
  }

  absl::Status Measure(const std::atomic<bool>& stop) {
    begin_ = steady_clock::now();
    const auto limit = std::chrono::duration<double>(options_.seconds);
    for (int64_t i = 0; !stop && (options_.steps == 0 || i < options_.steps); ++i) {
      if (options_.seconds > 0 && steady_clock::now() - begin_ >= limit) break;
      MNEMO_RETURN_IF_ERROR(Step());
    }
    end_ = steady_clock::now();
    return absl::OkStatus();
  }

  void Finish() {
    stream_.reset();
    session_.reset();
  }

  std::vector<double> step_;
  std::vector<double> receive_;
  std::vector<double> queue_;
  std::vector<double> compute_;
  steady_clock::time_point begin_;
  steady_clock::time_point end_;
  int64_t state_bytes_ = 0;

 private:
  absl::Status Step() {
    const std::vector<std::span<const float>> gradients(gradients_.begin(), gradients_.end());
    const std::vector<std::span<float>> updates(updates_.begin(), updates_.end());
    const auto begin = steady_clock::now();
    MNEMO_ASSIGN_OR_RETURN(const StepResult result, stream_->Step(gradients, updates));
    step_.push_back(SecondsBetween(begin, steady_clock::now()));
    receive_.push_back(result.receive_seconds);
    queue_.push_back(result.queue_seconds);
    compute_.push_back(result.compute_seconds);
    return absl::OkStatus();
  }

  Client& client_;
  const StepBenchmarkOptions& options_;
  std::unique_ptr<ScopedSession> session_;
  std::unique_ptr<OptimizeStream> stream_;
  Model gradients_;
  Model updates_;
};

// Calls `function` for each worker at the same time; the first error.
template <typename Function>
absl::Status ForEach(std::vector<std::unique_ptr<Worker>>& workers, const Function& function) {
  std::vector<absl::Status> results(workers.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < workers.size(); ++i) {
    threads.emplace_back([&, i] { results[i] = function(*workers[i]); });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) MNEMO_RETURN_IF_ERROR(result);
  return absl::OkStatus();
}

Latency SummarizeAll(const std::vector<std::unique_ptr<Worker>>& workers,
                     std::vector<double> Worker::*times) {
  std::vector<double> all;
  for (const auto& worker : workers) {
    all.insert(all.end(), ((*worker).*times).begin(), ((*worker).*times).end());
  }
  return Summarize(std::move(all));
}

}  // namespace

Latency Summarize(std::vector<double> seconds) {
  if (seconds.empty()) return {};
  std::ranges::sort(seconds);
  const auto quantile = [&](double share) {
    const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(seconds.size())));
    return seconds[std::max<size_t>(rank, 1) - 1];
  };
  const double sum = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  return {sum / static_cast<double>(seconds.size()), quantile(0.5), quantile(0.9), quantile(0.99),
          seconds.back()};
}

absl::StatusOr<StepBenchmarkResult> RunStepBenchmark(Client& client,
                                                     const StepBenchmarkOptions& options,
                                                     const std::atomic<bool>& stop) {
  std::vector<std::unique_ptr<Worker>> workers;
  for (int64_t i = 0; i < options.streams; ++i) {
    workers.push_back(std::make_unique<Worker>(client, options));
  }
  absl::Status status;
  for (auto& worker : workers) {
    if (status.ok() && !stop) status = worker->Prepare();
  }
  if (status.ok()) status = ForEach(workers, [&](Worker& worker) { return worker.Measure(stop); });
  for (auto& worker : workers) worker->Finish();
  MNEMO_RETURN_IF_ERROR(status);

  StepBenchmarkResult result;
  auto begin = workers.front()->begin_;
  auto end = workers.front()->end_;
  for (const auto& worker : workers) {
    result.steps += static_cast<int64_t>(worker->step_.size());
    begin = std::min(begin, worker->begin_);
    end = std::max(end, worker->end_);
  }
  result.seconds = SecondsBetween(begin, end);
  if (result.seconds > 0)
    result.steps_per_second = static_cast<double>(result.steps) / result.seconds;
  const double step_bytes =
      static_cast<double>(options.elements) * static_cast<double>(ElementSize(options.encoding));
  result.gradient_gb_per_second = result.steps_per_second * step_bytes / 1e9;
  result.update_gb_per_second = result.gradient_gb_per_second;
  result.step = SummarizeAll(workers, &Worker::step_);
  result.receive = SummarizeAll(workers, &Worker::receive_);
  result.queue = SummarizeAll(workers, &Worker::queue_);
  result.compute = SummarizeAll(workers, &Worker::compute_);
  result.state_bytes = workers.front()->state_bytes_;
  return result;
}

}  // namespace mnemosyne::ctl
