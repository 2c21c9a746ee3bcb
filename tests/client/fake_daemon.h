// A daemon for tests of the client: one process, plain arithmetic, and faults on request.
#pragma once

#include <grpcpp/server.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "mnemosyne/v1/optimizer_service.grpc.pb.h"

namespace mnemosyne {

// What goes wrong, once.
enum class Fault {
  kRefuseOpen,        // The stream ends with UNAVAILABLE instead of opening.
  kBreakBeforeApply,  // It ends with UNAVAILABLE when a step is in; the step is not applied.
  kBreakAfterApply,   // The same, but the step is applied.
  kBreakInAnswer,     // It ends after the first message of an answer of several.
  kEndAfterApply,     // It ends with OK in place of an answer.
  kSupersede,         // It ends with ABORTED, SUPERSEDED.
  kSilence,           // No answer comes to a step until the client goes away.
  kDeafness,          // The same, and nothing is read from the step's first message on.
  kNonFinite,         // A step is refused with NON_FINITE.
  kQueueFull,         // A step is refused with QUEUE_FULL.
  kRefuseEarly,       // A step is refused with UNKNOWN_PARAMETER before it is in.
  kHeartbeatsFirst,   // Heartbeats come before the answer.
  kUnknownCell,       // The answer has a cell that does not exist.
  kMissingCell,       // The answer lacks a cell.
  kRepeatedCell,      // The answer has a cell twice.
  kWrongChecksum,     // The answer's checksums are wrong.
  kLoseCreateAnswer,  // CreateSession makes a session and says UNAVAILABLE.
  kLoseDeleteAnswer,  // DeleteSession deletes and says UNAVAILABLE.
  kUnavailable,       // GetServerInfo says UNAVAILABLE.
};

// Serves OptimizerService and health. An update is -learning_rate times the gradient, 0.1 unless
// the session says otherwise. Any token but the session's is refused.
//
// Thread-safety: thread-safe.
class FakeDaemon final : public v1::OptimizerService::Service {
 public:
  struct Options {
    std::string socket;  // Listens on this Unix-domain socket; on a free port if empty.
    int64_t cell_elements = 1'000;
    int chunks_per_message = 2;
    int32_t heartbeat_seconds = 30;
    double decay = 0;             // In all updates.
    double scale = 1;             // In all updates, which are divided by it.
    bool keeps_sessions = false;  // What `opened` says.
  };

  FakeDaemon();
  explicit FakeDaemon(Options options);
  ~FakeDaemon() override;

  // As Client::Connect takes it.
  std::string address() const;

  // Ends all calls; sessions stay.
  void Stop();

  // Listens again where it did.
  void Start();

  void SetServing(bool serving);

  // Lets something go wrong when it is next due. Faults of different kinds wait for each other only
  // if they are due at the same place.
  void Inject(Fault fault);

  // All answers from now on say that steps up to this one are durable.
  void SetDurableStep(int64_t step);

  // Ends all calls and listens again, with all sessions back at `step`, as after a crash.
  void CrashBackTo(int64_t step);

  // Lets somebody else take all sessions over, which streams that are open are not told.
  void TakeOver();

  // Times that a step was applied.
  int applied_count() const;
  // Streams that were opened.
  int open_count() const;
  int session_count() const;
  // The last steps's values besides its gradients.
  v1::StepBegin last_begin() const;
  // Whether all chunks of the last step carried right checksums.
  bool had_checksums() const;
  // Messages of the last step.
  int message_count() const;

  // Waits until `count` heartbeats have come in all; false after 20 s.
  bool WaitForHeartbeats(int count);

  grpc::Status ListOptimizers(grpc::ServerContext* context,
                              const v1::ListOptimizersRequest* request,
                              v1::ListOptimizersResponse* response) override;
  grpc::Status ReloadModels(grpc::ServerContext* context, const v1::ReloadModelsRequest* request,
                            v1::ReloadModelsResponse* response) override;
  grpc::Status CreateSession(grpc::ServerContext* context, const v1::CreateSessionRequest* request,
                             v1::CreateSessionResponse* response) override;
  grpc::Status GetSession(grpc::ServerContext* context, const v1::GetSessionRequest* request,
                          v1::GetSessionResponse* response) override;
  grpc::Status ListSessions(grpc::ServerContext* context, const v1::ListSessionsRequest* request,
                            v1::ListSessionsResponse* response) override;
  grpc::Status UpdateSession(grpc::ServerContext* context, const v1::UpdateSessionRequest* request,
                             v1::UpdateSessionResponse* response) override;
  grpc::Status DeleteSession(grpc::ServerContext* context, const v1::DeleteSessionRequest* request,
                             v1::DeleteSessionResponse* response) override;
  grpc::Status Optimize(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::OptimizeResponse, v1::OptimizeRequest>* stream) override;
  grpc::Status Step(grpc::ServerContext* context, const v1::StepRequest* request,
                    v1::StepResponse* response) override;
  grpc::Status ExportState(grpc::ServerContext* context, const v1::ExportStateRequest* request,
                           grpc::ServerWriter<v1::ExportStateResponse>* writer) override;
  grpc::Status ImportState(grpc::ServerContext* context,
                           grpc::ServerReader<v1::ImportStateRequest>* reader,
                           v1::ImportStateResponse* response) override;
  grpc::Status GetServerInfo(grpc::ServerContext* context, const v1::GetServerInfoRequest* request,
                             v1::GetServerInfoResponse* response) override;

 private:
  using Stream = grpc::ServerReaderWriter<v1::OptimizeResponse, v1::OptimizeRequest>;

  struct FakeSession {
    v1::Session session;
    std::string token;
    std::string request_id;
    std::string last_gradients;  // Of the last step, to tell a resend.
    std::vector<v1::TensorChunk> last_updates;
  };

  // Whether `fault` is due; it is then used up.
  bool Take(Fault fault);
  grpc::Status Find(const std::string& name, FakeSession** session);
  grpc::Status Check(const std::string& name, const std::string& token, FakeSession** session);
  grpc::Status Serve(grpc::ServerContext* context, Stream* stream, const v1::OpenStream& open,
                     FakeSession& session);
  // Carries a step out, or repeats it. An error's details tell its reason.
  grpc::Status Apply(FakeSession& session, const v1::OpenStream& open, const v1::StepBegin& begin,
                     const std::vector<v1::TensorChunk>& chunks, v1::StepDone& done);
  bool Answer(Stream* stream, const FakeSession& session, const v1::StepDone& done);
  void WaitUntilCancelled(grpc::ServerContext* context);

  const Options options_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Fault> faults_;
  std::vector<std::unique_ptr<FakeSession>> sessions_;
  int sessions_made_ = 0;
  int applied_count_ = 0;
  int open_count_ = 0;
  int heartbeat_count_ = 0;
  int message_count_ = 0;
  int64_t durable_step_ = 0;
  bool had_checksums_ = false;
  bool stopping_ = false;
  v1::StepBegin last_begin_;
};

// A status with an ErrorInfo, as the daemon makes them.
grpc::Status ErrorWithReason(grpc::StatusCode code, const std::string& reason,
                             const std::string& message,
                             const std::map<std::string, std::string>& metadata = {});

}  // namespace mnemosyne
