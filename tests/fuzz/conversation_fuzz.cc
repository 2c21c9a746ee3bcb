// Plays clients of one session against the state machine of the Optimize stream: an input is a list
// of commands, each a byte and what belongs to it. One of them lets the device work, so that the
// input alone decides what happens when. The stream must keep to the rules of its transport, end
// when it is closed, and leave nothing behind.
#include <google/protobuf/stubs/logging.h>
#include <spdlog/common.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "kernels/backend.h"
#include "mnemosyne/v1/optimizer_service.pb.h"
#include "optim/gradient_policy.h"
#include "server/model/model_registry.h"
#include "server/rpc/optimize_conversation.h"
#include "server/session/session_store.h"
#include "server/telemetry/log.h"
#include "tests/server/testing/fake_sink.h"

namespace {

using namespace mnemosyne::server;  // NOLINT(google-build-using-namespace)

constexpr size_t kElements[] = {6, 3};
constexpr size_t kCellElements = 4;

void Check(bool good) {
  if (!good) std::abort();
}

std::vector<std::unique_ptr<mnemosyne::kernels::Backend>> Backends() {
  std::vector<std::unique_ptr<mnemosyne::kernels::Backend>> backends;
  backends.push_back(*mnemosyne::kernels::CreateBackend("cpu", {.threads = 1}));
  return backends;
}

// Small enough to be met.
TenantLimits Limits() { return {.steps_per_second = 8}; }

// A cell an update: updates take several messages.
StreamLimits SmallMessages() {
  StreamLimits limits;
  limits.payload_bytes = 1;
  return limits;
}

// What makes a daemon, without the network and without threads; made once.
struct Bench {
  mnemosyne::FakeClock clock;
  MemoryBudget budget{int64_t{1} << 30};
  TenantQuotas quotas{[](std::string_view) { return Limits(); }, clock};
  ModelRegistry models{{}};
  DeviceSet devices{Backends(), 64, budget, clock, StepExecutor::Runner::kCaller};
  StepExecutor& executor = devices[0];
  SessionStore store{{.cell_elements = kCellElements}, budget, quotas, models, devices, clock};
  int creations = 0;

  void Settle() {
    while (executor.RunNext()) {
    }
  }

  std::shared_ptr<Session> Create(mnemosyne::optim::NonFinitePolicy policy) {
    SessionSpec spec;
    spec.optimizer = "sgd";
    spec.parameters.push_back({.name = "weight", .shape = {2, 3}});
    spec.parameters.push_back({.name = "bias", .shape = {3}});
    spec.policy.non_finite = policy;
    std::shared_ptr<Session> session;
    store.Create({}, "fuzz " + std::to_string(++creations), 0, std::move(spec),
                 [&session](auto created) { session = *std::move(created); });
    Settle();
    Check(session != nullptr);
    return session;
  }
};

// Takes commands off the front of an input.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : left_(data, size) {}
  bool empty() const { return left_.empty(); }
  uint8_t Byte() {
    if (left_.empty()) return 0;
    const uint8_t byte = left_.front();
    left_ = left_.subspan(1);
    return byte;
  }
  std::string Bytes(size_t count) {
    count = std::min(count, left_.size());
    std::string bytes(reinterpret_cast<const char*>(left_.data()), count);
    left_ = left_.subspan(count);
    return bytes;
  }

 private:
  std::span<const uint8_t> left_;
};

// One end of a stream, and what its owner is known by.
struct Client {
  std::unique_ptr<FakeSink> sink;
  std::shared_ptr<std::atomic<bool>> revoked;
  size_t element_bytes = sizeof(float);  // As the stream was opened.
};

class Game {
 public:
  Game(Bench& bench, Input input)
      : bench_(bench),
        input_(input),
        session_(bench.Create(
            static_cast<mnemosyne::optim::NonFinitePolicy>(input_.Byte() % kPolicies))) {
    // The rates of steps begin anew.
    bench_.clock.Advance(std::chrono::seconds(10));
  }

  void Play() {
    constexpr int kCommandsMax = 200;
    for (int i = 0; i < kCommandsMax && !input_.empty(); ++i) {
      const uint8_t command = input_.Byte();
      Command(command & 15, clients_[(command >> 4) & 1]);
    }
    for (Client& client : clients_) Leave(client);
    Delete();
    session_.reset();
    bench_.Settle();
    Check(bench_.budget.bytes_reserved() == 0 && bench_.store.count() == 0);
  }

 private:
  static constexpr int kPolicies = 3;

  void Command(int command, Client& client) {
    if (client.sink == nullptr) Join(client);
    FakeSink& sink = *client.sink;
    mnemosyne::v1::OptimizeRequest request;
    switch (command) {
      case 0:
        client.element_bytes = FillOpen(*request.mutable_open());
        break;
      case 1:
        FillStep(request, NextStep(), client.element_bytes);
        break;
      case 2:
        FillStep(request, input_.Byte(), client.element_bytes);
        break;
      case 3:
        FillBegin(*request.mutable_begin());
        break;
      case 4:
        AddChunk(request);
        break;
      case 5:
        FillEnd(*request.mutable_end());
        break;
      case 6:
        return sink.SendBytes(input_.Bytes(input_.Byte()));
      case 7:
        return sink.CloseSending();
      case 8:
        return sink.conversation().OnCancelled();
      case 9:
        bench_.clock.Advance(std::chrono::seconds(input_.Byte()) * 16);
        return sink.conversation().OnTick();
      case 10:
        return sink.conversation().OnDrain();
      case 11:
        return sink.Block();
      case 12:
        return sink.Unblock();
      case 13:
        return Leave(client);
      case 14:
        bench_.executor.RunNext();
        return;
      default:
        return RareCommand(input_.Byte() % 5, client);
    }
    sink.SendBytes(Garbled(request.SerializeAsString()));
  }

  void RareCommand(int command, Client& client) {
    switch (command) {
      case 0:
        return Delete();
      case 1:
        *client.revoked = true;
        return client.sink->conversation().OnTick();
      case 2:
        garble_ = true;  // The next message.
        return;
      case 3:
        return session_->Quarantine(absl::InternalError("a fault of the device"));
      default:
        return client.sink->FailWrite();
    }
  }

  void Join(Client& client) {
    client.revoked = std::make_shared<std::atomic<bool>>(false);
    StreamOwner owner{.caller = {.revoked = client.revoked}};
    client.sink = std::make_unique<FakeSink>(
        std::make_shared<OptimizeConversation>(bench_.store, std::move(owner), SmallMessages(),
                                               bench_.clock),
        [](const std::string&) { std::abort(); });
  }

  static void Leave(Client& client) {
    if (client.sink != nullptr) client.sink->Unblock();
    client.sink.reset();
  }

  void Delete() {
    if (!std::exchange(deleted_, true)) bench_.store.Delete(session_);
  }

  int64_t NextStep() const { return session_->progress().last_step + 1; }

  // Returns the bytes of an element of a gradient.
  size_t FillOpen(mnemosyne::v1::OpenStream& open) {
    const uint8_t encodings = input_.Byte();
    const uint8_t flags = input_.Byte();
    open.set_session(session_->name());
    open.set_token((flags & 1) != 0 ? "wrong" : session_->token());
    open.set_gradient_encoding(static_cast<mnemosyne::v1::DataType>(encodings & 7));
    open.set_update_encoding(static_cast<mnemosyne::v1::DataType>((encodings >> 4) & 7));
    open.set_checksums((flags & 2) != 0);
    open.set_accept_loss((flags & 4) != 0);
    open.set_rank((flags >> 3) & 1);
    open.set_lane((flags >> 4) & 1);
    open.set_stream_id((flags >> 5) & 1);
    open.set_attempt(flags >> 6);
    return (encodings & 7) < 2 ? sizeof(float) : sizeof(uint16_t);
  }

  void FillBegin(mnemosyne::v1::StepBegin& begin) {
    const uint8_t flags = input_.Byte();
    begin.set_step(NextStep() - (flags & 1));
    if ((flags & 2) != 0) begin.add_absent_parameters((flags >> 2) & 3);
    if ((flags & 16) != 0) begin.set_loss(0.5);
    for (int i = (flags >> 5) & 1; i > 0; --i) begin.add_learning_rates(0.5);
    for (int i = flags >> 6; i > 0; --i) begin.add_learning_rate_factors(0.5);
  }

  void FillEnd(mnemosyne::v1::StepEnd& end) {
    const uint8_t flags = input_.Byte();
    end.set_step(NextStep() - (flags & 1));
    if ((flags & 2) != 0) end.set_loss(0.5);
  }

  void AddChunk(mnemosyne::v1::OptimizeRequest& request) {
    auto& chunk = *request.add_chunks();
    const uint8_t place = input_.Byte();
    chunk.set_parameter(place & 3);
    chunk.set_cell((place >> 2) & 3);
    const std::string payload(input_.Byte() & 31, static_cast<char>(input_.Byte()));
    if ((place & 16) != 0) {
      chunk.set_crc32c(mnemosyne::Crc32c(std::as_bytes(std::span(payload))) ^ (place >> 5));
    }
    chunk.set_payload(payload);
  }

  // A whole step, right but for what its elements may be.
  void FillStep(mnemosyne::v1::OptimizeRequest& request, int64_t step, size_t element_bytes) {
    const char fill = static_cast<char>(input_.Byte());
    request.mutable_begin()->set_step(step);
    for (size_t parameter = 0; parameter < std::size(kElements); ++parameter) {
      for (size_t start = 0; start < kElements[parameter]; start += kCellElements) {
        auto& chunk = *request.add_chunks();
        chunk.set_parameter(static_cast<int32_t>(parameter));
        chunk.set_cell(static_cast<int32_t>(start / kCellElements));
        const size_t count = std::min(kCellElements, kElements[parameter] - start);
        chunk.set_payload(std::string(count * element_bytes, fill));
      }
    }
    request.mutable_end()->set_step(step);
  }

  // The message, with a byte of it changed if that was asked for.
  std::string Garbled(std::string message) {
    if (!std::exchange(garble_, false) || message.empty()) return message;
    const size_t place = input_.Byte() % message.size();
    message[place] = static_cast<char>(input_.Byte());
    return message;
  }

  Bench& bench_;
  Input input_;
  std::shared_ptr<Session> session_;
  std::array<Client, 2> clients_;
  bool deleted_ = false;
  bool garble_ = false;
};

}  // namespace

// protobuf tells of each message that it cannot read.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* const bench = [] {
    SetUpLogging(spdlog::level::off, LogFormat::kText);
    return new Bench();
  }();
  Game(*bench, Input(data, size)).Play();
  return 0;
}
