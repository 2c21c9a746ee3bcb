// Plays clients of one session against the state machine of the Optimize stream: an input is a list
// of commands, each a byte and what belongs to it. The stream must keep to the rules of its
// transport, end when it is closed, and leave nothing behind.
#include <google/protobuf/stubs/logging.h>
#include <spdlog/common.h>

#include <algorithm>
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

#include "base/clock.h"
#include "kernels/backend.h"
#include "mnemosyne/v1/optimizer_service.pb.h"
#include "server/model/model_registry.h"
#include "server/rpc/optimize_conversation.h"
#include "server/session/session_store.h"
#include "server/telemetry/log.h"
#include "tests/server/testing/fake_sink.h"
#include "tests/testing/notification.h"

namespace {

using namespace mnemosyne::server;  // NOLINT(google-build-using-namespace)
using mnemosyne::testing::Notification;

constexpr size_t kElements[] = {6, 3};

void Check(bool good) {
  if (!good) std::abort();
}

std::vector<std::unique_ptr<mnemosyne::kernels::Backend>> Backends() {
  std::vector<std::unique_ptr<mnemosyne::kernels::Backend>> backends;
  backends.push_back(*mnemosyne::kernels::CreateBackend("cpu", {.threads = 1}));
  return backends;
}

// What makes a daemon, without the network; made once.
struct Bench {
  mnemosyne::FakeClock clock;
  MemoryBudget budget{int64_t{1} << 30};
  TenantQuotas quotas{[](std::string_view) { return TenantLimits(); }, clock};
  ModelRegistry models{{}};
  DeviceSet devices{Backends(), 64, budget, clock};
  StepExecutor& executor = devices[0];
  SessionStore store{{}, budget, quotas, models, devices, clock};
  int creations = 0;

  void Settle() {
    Notification done;
    Check(executor.Submit("", [&](StepExecutor::Device&) { done.Notify(); }).ok());
    done.WaitForNotification();
  }

  std::shared_ptr<Session> Create() {
    SessionSpec spec;
    spec.optimizer = "sgd";
    spec.parameters.push_back({.name = "weight", .shape = {2, 3}});
    spec.parameters.push_back({.name = "bias", .shape = {3}});
    Notification done;
    std::shared_ptr<Session> session;
    store.Create({}, "fuzz " + std::to_string(++creations), 0, std::move(spec), [&](auto created) {
      Check(created.ok());
      session = *std::move(created);
      done.Notify();
    });
    done.WaitForNotification();
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

class Game {
 public:
  Game(Bench& bench, Input input)
      : bench_(bench), input_(input), session_(bench.Create()), sinks_(2) {}

  void Play() {
    constexpr int kCommandsMax = 200;
    for (int i = 0; i < kCommandsMax && !input_.empty(); ++i) {
      const uint8_t command = input_.Byte();
      Command(command & 15, sinks_[(command >> 4) & 1]);
    }
    for (auto& sink : sinks_) Leave(sink);
    if (!deleted_) bench_.store.Delete(session_);
    session_.reset();
    bench_.Settle();
    Check(bench_.budget.bytes_reserved() == 0 && bench_.store.count() == 0);
  }

 private:
  void Command(int command, std::unique_ptr<FakeSink>& sink) {
    if (sink == nullptr) {
      sink =
          std::make_unique<FakeSink>(std::make_shared<OptimizeConversation>(
                                         bench_.store, StreamOwner{}, StreamLimits(), bench_.clock),
                                     [](const std::string&) { std::abort(); });
    }
    mnemosyne::v1::OptimizeRequest request;
    switch (command) {
      case 0:
        request.mutable_open()->set_session(session_->name());
        request.mutable_open()->set_token(session_->token());
        request.mutable_open()->set_gradient_encoding(
            static_cast<mnemosyne::v1::DataType>(input_.Byte() % 5));
        break;
      case 1:
        Fill(request, NextStep());
        break;
      case 2:
        Fill(request, input_.Byte());
        break;
      case 3:
        request.mutable_begin()->set_step(NextStep());
        if (const uint8_t absent = input_.Byte(); absent > 127) {
          request.mutable_begin()->add_absent_parameters(absent & 3);
        }
        break;
      case 4:
        AddChunk(request, input_.Byte(), input_.Byte(), input_.Byte());
        break;
      case 5:
        request.mutable_end()->set_step(NextStep());
        break;
      case 6:
        return sink->SendBytes(input_.Bytes(input_.Byte()));
      case 7:
        return sink->CloseSending();
      case 8:
        return sink->conversation().OnCancelled();
      case 9:
        bench_.clock.Advance(std::chrono::seconds(input_.Byte()));
        return sink->conversation().OnTick();
      case 10:
        return sink->conversation().OnDrain();
      case 11:
        return sink->Block();
      case 12:
        return sink->Unblock();
      case 13:
        return Leave(sink);
      case 14:
        return bench_.Settle();
      default:
        if (input_.Byte() == 255 && !std::exchange(deleted_, true)) bench_.store.Delete(session_);
        return;
    }
    sink->Send(request);
  }

  static void Leave(std::unique_ptr<FakeSink>& sink) {
    if (sink != nullptr) sink->Unblock();
    sink.reset();
  }

  int64_t NextStep() const { return session_->progress().last_step + 1; }

  static void AddChunk(mnemosyne::v1::OptimizeRequest& request, uint32_t parameter, uint32_t cell,
                       size_t bytes) {
    auto& chunk = *request.add_chunks();
    chunk.set_parameter(parameter & 3);
    chunk.set_cell(cell & 1);
    chunk.set_payload(std::string(bytes & 63, '\0'));
  }

  static void Fill(mnemosyne::v1::OptimizeRequest& request, int64_t step) {
    request.mutable_begin()->set_step(step);
    for (size_t parameter = 0; parameter < std::size(kElements); ++parameter) {
      auto& chunk = *request.add_chunks();
      chunk.set_parameter(static_cast<int32_t>(parameter));
      chunk.set_payload(std::string(kElements[parameter] * sizeof(float), '\0'));
    }
    request.mutable_end()->set_step(step);
  }

  Bench& bench_;
  Input input_;
  std::shared_ptr<Session> session_;
  std::vector<std::unique_ptr<FakeSink>> sinks_;
  bool deleted_ = false;
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
