// How much of what gRPC can do is left with the daemon in between: steps through mnemosyned
// against messages of the same sizes through a bare echo, in turns within one run.
//
// Two echoes are measured. In `echo step` the server collects a step's messages and then sends them
// back, as an optimizer must that applies whole steps or nothing: the ceiling for the daemon. In
// `echo duplex` each message goes back at once, both directions busy: the ceiling of the wire.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/status_macros.h"
#include "client/cpp/channel.h"
#include "client/cpp/ctl/step_benchmark.h"
#include "client/cpp/ctl/text.h"
#include "client/cpp/lease.h"
#include "client/cpp/raw_stream.h"
#include "client/cpp/step_writer.h"
#include "mnemosyne/client.h"

namespace mnemosyne {
namespace {

using std::chrono::steady_clock;

struct Options {
  std::string daemon_tcp, daemon_socket, echo_tcp, echo_socket;
  std::string optimizer = "adamw";
  std::vector<double> elements = {1e3, 1e6, 2.5e7};
  int64_t tensors = 100;
  double seconds = 4;  // Of each subject and case, over all its turns.
  int turns = 8;
  bool json = false;
};

// One thing that is measured: something that can do a step.
struct Subject {
  std::string name;
  std::function<absl::Status()> step;
  std::function<void()> close;
  std::vector<double> seconds;
};

// The tensors of a case.
struct Tensor {
  std::vector<float> gradient;
  std::vector<float> update;
};

std::vector<Tensor> MakeTensors(size_t elements, size_t count) {
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> values(-0.01F, 0.01F);
  std::vector<Tensor> tensors(std::min(count, elements));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const size_t size = elements / tensors.size() + (i < elements % tensors.size() ? 1 : 0);
    tensors[i].gradient.resize(size);
    tensors[i].update.resize(size);
    for (float& value : tensors[i].gradient) value = values(random);
  }
  return tensors;
}

std::vector<std::span<const float>> Gradients(const std::vector<Tensor>& tensors) {
  std::vector<std::span<const float>> views;
  for (const Tensor& tensor : tensors) views.emplace_back(tensor.gradient);
  return views;
}

std::vector<std::span<float>> Updates(std::vector<Tensor>& tensors) {
  std::vector<std::span<float>> views;
  for (Tensor& tensor : tensors) views.emplace_back(tensor.update);
  return views;
}

absl::StatusOr<Subject> MakeDaemonSubject(const std::string& address, const Options& options,
                                          std::vector<Tensor>& tensors, int64_t& cell_elements) {
  MNEMO_ASSIGN_OR_RETURN(auto connected, Client::Connect(address));
  const std::shared_ptr<Client> client = std::move(connected);
  v1::SessionSpec spec;
  spec.set_optimizer(options.optimizer);
  for (const Tensor& tensor : tensors) {
    auto* parameter = spec.add_parameters();
    parameter->set_name("tensor" + std::to_string(spec.parameters_size()));
    parameter->add_shape(static_cast<int64_t>(tensor.gradient.size()));
  }
  MNEMO_ASSIGN_OR_RETURN(const CreatedSession session, client->CreateSession(spec));
  cell_elements = session.session.cell_elements();
  MNEMO_ASSIGN_OR_RETURN(auto opened, client->OpenStream(session.key()));
  const auto stream = std::make_shared<std::unique_ptr<OptimizeStream>>(std::move(opened));
  return Subject{"daemon",
                 [stream, gradients = Gradients(tensors), updates = Updates(tensors)] {
                   return (*stream)->Step(gradients, updates).status();
                 },
                 [stream, client, key = session.key()] {
                   stream->reset();
                   client->DeleteSession(key).IgnoreError();
                 },
                 {}};
}

// The messages that the client makes of a step.
std::vector<grpc::ByteBuffer> StepMessages(const std::vector<Tensor>& tensors,
                                           int64_t cell_elements, Lease& lease) {
  std::vector<size_t> counts;
  for (const Tensor& tensor : tensors) counts.push_back(tensor.gradient.size());
  const codec::ChunkGrid grid(counts, static_cast<size_t>(cell_elements));
  const auto gradients = Gradients(tensors);
  StepWriter writer(grid, DataType::kFloat32, false, 1, {}, gradients, lease);
  std::vector<grpc::ByteBuffer> messages;
  while (!writer.done()) messages.push_back(writer.Next());
  return messages;
}

// The state of an echo; messages go before the lease that they lie in.
struct Echo {
  Lease lease;
  std::vector<grpc::ByteBuffer> messages;
  std::unique_ptr<RawStream> stream;
};

Subject MakeEchoSubject(const std::string& address, bool duplex, const std::vector<Tensor>& tensors,
                        int64_t cell_elements) {
  const auto echo = std::make_shared<Echo>();
  echo->messages = StepMessages(tensors, cell_elements, echo->lease);
  const size_t count = echo->messages.size();
  echo->stream = std::make_unique<RawStream>(
      MakeChannel(address), "/bench.Echo/Echo", count + 1,
      std::map<std::string, std::string>{{"hold", std::to_string(duplex ? 1 : count)}});
  return Subject{duplex ? "echo duplex" : "echo step",
                 [echo] {
                   const auto deadline = steady_clock::now() + std::chrono::seconds(60);
                   for (const auto& message : echo->messages) {
                     MNEMO_RETURN_IF_ERROR(echo->stream->Write(message, deadline));
                   }
                   grpc::ByteBuffer answer;
                   for (size_t i = 0; i < echo->messages.size(); ++i) {
                     MNEMO_RETURN_IF_ERROR(echo->stream->Read(answer, deadline));
                   }
                   return absl::OkStatus();
                 },
                 [echo] {
                   echo->stream->Close(steady_clock::now() + std::chrono::seconds(1));
                   echo->stream.reset();
                   echo->messages.clear();
                 },
                 {}};
}

// Steps the subject for `seconds`, at least once. The first step, which finds cold caches and
// threads of gRPC that sleep since the last turn, is not measured.
absl::Status TakeTurn(Subject& subject, double seconds, bool measured) {
  MNEMO_RETURN_IF_ERROR(subject.step());
  const auto begin = steady_clock::now();
  double passed = 0;
  while (passed < seconds) {
    const auto step_begin = steady_clock::now();
    MNEMO_RETURN_IF_ERROR(subject.step());
    const auto end = steady_clock::now();
    const double step_seconds = std::chrono::duration<double>(end - step_begin).count();
    if (measured) subject.seconds.push_back(step_seconds);
    passed = std::chrono::duration<double>(end - begin).count();
  }
  return absl::OkStatus();
}

struct Row {
  std::string transport;
  size_t elements;
  std::string subject;
  size_t steps;
  ctl::Latency latency;
  double gb_per_second;  // Each way.
};

absl::Status RunCase(const Options& options, const std::string& transport, size_t elements,
                     const std::string& daemon, const std::string& echo, std::vector<Row>& rows) {
  std::vector<Tensor> tensors = MakeTensors(elements, static_cast<size_t>(options.tensors));
  int64_t cell_elements = 0;
  std::vector<Subject> subjects;
  MNEMO_ASSIGN_OR_RETURN(subjects.emplace_back(),
                         MakeDaemonSubject(daemon, options, tensors, cell_elements));
  subjects.push_back(MakeEchoSubject(echo, false, tensors, cell_elements));
  subjects.push_back(MakeEchoSubject(echo, true, tensors, cell_elements));

  absl::Status status;
  for (Subject& subject : subjects) {
    if (status.ok()) status = TakeTurn(subject, options.seconds / options.turns, false);
  }
  for (int turn = 0; turn < options.turns; ++turn) {
    for (Subject& subject : subjects) {
      if (status.ok()) status = TakeTurn(subject, options.seconds / options.turns, true);
    }
  }
  for (Subject& subject : subjects) subject.close();
  MNEMO_RETURN_IF_ERROR(status);

  for (Subject& subject : subjects) {
    const ctl::Latency latency = ctl::Summarize(subject.seconds);
    const double bytes = static_cast<double>(elements) * sizeof(float);
    rows.push_back({transport, elements, subject.name, subject.seconds.size(), latency,
                    bytes / latency.p50 / 1e9});
  }
  return absl::OkStatus();
}

void Print(const std::vector<Row>& rows) {
  fmt::print(
      "| transport | elements | subject | steps | p50 | p99 | GB/s each way (p50) | "
      "daemon's p50 against it |\n|---|--:|---|--:|--:|--:|--:|--:|\n");
  double daemon_p50 = 0;
  for (const Row& row : rows) {
    const bool daemon = row.subject == "daemon";
    if (daemon) daemon_p50 = row.latency.p50;
    fmt::print("| {} | {} | {} | {} | {} | {} | {:.3f} | {} |\n", row.transport,
               ctl::FormatCount(static_cast<int64_t>(row.elements)), row.subject, row.steps,
               ctl::FormatSeconds(row.latency.p50), ctl::FormatSeconds(row.latency.p99),
               row.gb_per_second,
               daemon ? "" : fmt::format("{:.2f}x", daemon_p50 / row.latency.p50));
  }
}

void PrintJson(const std::vector<Row>& rows) {
  auto list = nlohmann::ordered_json::array();
  for (const Row& row : rows) {
    list.push_back({{"transport", row.transport},
                    {"elements", row.elements},
                    {"subject", row.subject},
                    {"steps", row.steps},
                    {"p50_seconds", row.latency.p50},
                    {"p99_seconds", row.latency.p99},
                    {"mean_seconds", row.latency.mean},
                    {"gb_per_second", row.gb_per_second}});
  }
  fmt::print("{}\n", list.dump(2));
}

absl::Status Run(const Options& options) {
  std::vector<Row> rows;
  for (const double elements : options.elements) {
    const auto count = static_cast<size_t>(elements);
    MNEMO_RETURN_IF_ERROR(
        RunCase(options, "TCP", count, options.daemon_tcp, options.echo_tcp, rows));
    MNEMO_RETURN_IF_ERROR(
        RunCase(options, "UDS", count, options.daemon_socket, options.echo_socket, rows));
  }
  options.json ? PrintJson(rows) : Print(rows);
  return absl::OkStatus();
}

}  // namespace
}  // namespace mnemosyne

int main(int argc, char** argv) {
  mnemosyne::Options options;
  CLI::App app("Steps through the daemon against a bare gRPC echo.", "stream_bench");
  app.add_option("--daemon-tcp", options.daemon_tcp, "HOST:PORT of mnemosyned")->required();
  app.add_option("--daemon-socket", options.daemon_socket, "unix:PATH of mnemosyned")->required();
  app.add_option("--echo-tcp", options.echo_tcp, "HOST:PORT of echo_server")->required();
  app.add_option("--echo-socket", options.echo_socket, "unix:PATH of echo_server")->required();
  app.add_option("--optimizer", options.optimizer, "The optimizer")->capture_default_str();
  app.add_option("--elements", options.elements, "Sizes of models")->capture_default_str();
  app.add_option("--tensors", options.tensors, "Tensors of a model")->capture_default_str();
  app.add_option("--seconds", options.seconds, "Seconds of each subject in each case")
      ->capture_default_str();
  app.add_option("--turns", options.turns, "Turns in which the subjects alternate")
      ->capture_default_str();
  app.add_flag("--json", options.json, "Print JSON");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = mnemosyne::Run(options);
  if (status.ok()) return 0;
  std::fputs((status.ToString() + "\n").c_str(), stderr);
  return 1;
}
