// What gRPC itself can do: a server that sends messages back as they came, the baseline of
// stream_bench. Any method echoes. The metadata `hold` is the number of messages that it collects
// before it sends them back: 1 for each at once, more for what a step of so many messages is like.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>

namespace {

// Reads without pause, so that a client may write a whole step before it reads. Owns itself, as
// gRPC's callback API asks; OnDone, the last call, deletes it.
class EchoReactor final : public grpc::ServerGenericBidiReactor {
 public:
  explicit EchoReactor(size_t hold) : hold_(hold) { StartRead(&incoming_); }

  void OnReadDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    if (!ok) {
      reads_done_ = true;
      FinishIfDone();
      return;
    }
    held_.push_back(incoming_);
    incoming_.Clear();
    if (held_.size() >= hold_) {
      outbox_.insert(outbox_.end(), held_.begin(), held_.end());
      held_.clear();
      WriteNext();
    }
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    outbox_.pop_front();
    if (!ok) outbox_.clear();
    WriteNext();
    FinishIfDone();
  }

  void OnDone() override { delete this; }

 private:
  void WriteNext() {
    if (writing_ || outbox_.empty()) return;
    writing_ = true;
    StartWrite(&outbox_.front());
  }

  void FinishIfDone() {
    if (reads_done_ && !writing_ && outbox_.empty()) Finish(grpc::Status::OK);
  }

  const size_t hold_;
  std::mutex mutex_;
  grpc::ByteBuffer incoming_;
  std::deque<grpc::ByteBuffer> held_;
  std::deque<grpc::ByteBuffer> outbox_;  // The first is being written.
  bool writing_ = false;
  bool reads_done_ = false;
};

class EchoService final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    const auto hold = context->client_metadata().find("hold");
    if (hold == context->client_metadata().end()) return new EchoReactor(1);
    return new EchoReactor(std::stoul(std::string(hold->second.data(), hold->second.size())));
  }
};

}  // namespace

int main(int argc, char** argv) {
  std::string listen = "127.0.0.1:0";
  std::string socket;
  std::string ready_file;
  CLI::App app("Sends every message back.", "echo_server");
  app.add_option("--listen", listen, "HOST:PORT; port 0 takes a free one");
  app.add_option("--socket", socket, "Path of a Unix-domain socket");
  app.add_option("--ready-file", ready_file, "JSON file to write when it serves");
  CLI11_PARSE(app, argc, argv);

  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  EchoService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &port);
  if (!socket.empty()) {
    builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  }
  builder.RegisterCallbackGenericService(&service);
  const auto server = builder.BuildAndStart();
  if (!server) return 1;
  if (!ready_file.empty()) {
    const nlohmann::json ready = {
        {"listen", {listen.substr(0, listen.rfind(':') + 1) + std::to_string(port)}},
        {"socket", socket}};
    std::ofstream(ready_file + ".new") << ready.dump() << "\n";
    std::filesystem::rename(ready_file + ".new", ready_file);
  }
  int signal = 0;
  sigwait(&signals, &signal);
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  return 0;
}
