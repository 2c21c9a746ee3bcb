#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_split.h"
#include "base/error.h"
#include "base/fail_point.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "server/config/machine.h"
#include "server/listen_check.h"
#include "server/rpc/tls_credentials.h"
#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

constexpr int kKeepaliveMs = 60'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
constexpr int kClientPingIntervalMs = 10'000;
constexpr int kHandshakeTimeoutMs = 20'000;
constexpr int32_t kIdentifySeconds = 60;

// What threads, models that are read again, and tables may add.
constexpr int64_t kBaseMargin = 64 << 20;

// Most bytes that gRPC reads from a connection at once. Whatever calls they open and take back are
// made before anything else of the connection is done: 4 MiB, gRPC's own bound, hold forty
// thousand.
constexpr int kReadBytesMax = 256 << 10;

// A connection has a descriptor of gRPC's and one of the guard's.
constexpr int64_t kFilesForConnection = 2;
constexpr int64_t kFilesForRest = 256;

constexpr int kMetadataBytesMax = 16 * 1024;
constexpr int kStreamsPerConnectionMax = 128;

// How often certificates and the access file are looked at.
constexpr std::chrono::seconds kFilePollInterval(2);

// How long after the deadline of its shutdown gRPC is taken to hang.
constexpr std::chrono::seconds kGrpcGrace(5);

// Whether gRPC has let go.
struct GrpcEnd {
  Mutex mutex;
  bool reached ABSL_GUARDED_BY(mutex) = false;
};

StreamLimits MakeStreamLimits(const ServerConfig& config) {
  return {.message_bytes_max = config.message_max,
          .heartbeat_seconds = static_cast<int32_t>(config.heartbeat_seconds),
          .step_timeout_seconds = static_cast<int32_t>(config.step_timeout_seconds),
          .idle_seconds = static_cast<int32_t>(config.stream_idle_seconds)};
}

ConnectionLimits MakeConnectionLimits(const ServerConfig& config, const AccessPolicy& policy) {
  return {.connections_max = static_cast<size_t>(config.connections_max),
          .identify_seconds = kIdentifySeconds,
          .message_bytes_max = config.message_max,
          .tenants = policy.asks()};
}

TenantLimits MakeTenantLimits(const ServerConfig& config) {
  return {.sessions = config.tenant_sessions_max,
          .memory_bytes = config.tenant_memory_max,
          .device_bytes = config.tenant_device_memory_max,
          .disk_bytes = config.tenant_disk_max,
          .parameters = config.tenant_parameters_max,
          .streams = config.tenant_streams_max,
          .inflight_bytes = config.tenant_inflight_max,
          .steps_per_second = config.tenant_steps_per_second,
          .creations_per_minute = config.tenant_sessions_per_minute};
}

SessionLimits MakeSessionLimits(const ServerConfig& config) {
  return {.session_count_max = static_cast<size_t>(config.sessions_max),
          .parameter_count_max = static_cast<size_t>(config.parameters_max),
          .cell_elements = static_cast<size_t>(config.cell_elements)};
}

KeeperOptions MakeKeeperOptions(const ServerConfig& config, const AccessPolicy& policy) {
  return {.snapshot_seconds = config.snapshot_seconds,
          .snapshot_steps = config.snapshot_steps,
          .generations = static_cast<size_t>(config.snapshots_kept),
          .buffer_bytes = config.snapshot_buffer,
          .disk_bytes_max = config.state_max,
          .tenant_disk_bytes_max =
              [&policy](std::string_view tenant) { return policy.LimitsOf(tenant).disk_bytes; },
          .log_bytes_max = config.log_max,
          .park_seconds = config.park_seconds,
          .idle_seconds = config.idle_seconds,
          .expire_seconds = config.expire_seconds};
}

// The names in --device, with `auto` and `all` resolved.
std::vector<std::string> DeviceNames(const ServerConfig& config) {
  const std::vector<std::string> gpus = kernels::GpuNames();
  if (config.device == "auto") return {gpus.empty() ? "cpu" : gpus.front()};
  if (config.device == "all" && !gpus.empty()) return gpus;
  return absl::StrSplit(config.device, ',');
}

absl::StatusOr<std::vector<std::unique_ptr<kernels::Backend>>> OpenDevices(
    const ServerConfig& config) {
  const kernels::CpuOptions cpu{.threads = static_cast<int>(config.threads), .isa = config.isa};
  std::vector<std::string> names = DeviceNames(config);
  std::vector<std::unique_ptr<kernels::Backend>> backends;
  for (const std::string& name : names) {
    if (std::ranges::count(names, name) > 1) {
      return FailedPrecondition("--device {}: {} stands there twice; name each device once",
                                config.device, name);
    }
    if (name == "all") {
      return FailedPrecondition(
          "--device all: device not available: there is no GPU that this "
          "build can use; use --device auto");
    }
    auto backend = kernels::CreateBackend(name, cpu);
    // A GPU that is there and yet cannot be had is no reason not to serve where any device will do.
    if (!backend.ok() && config.device == "auto") backend = kernels::CreateBackend("cpu", cpu);
    if (!backend.ok()) {
      return FailedPrecondition("--device {} --isa {}: {}; use --device auto and --isa auto",
                                config.device, config.isa, ErrorMessage(backend.status()));
    }
    if (names.size() > 1 && (*backend)->host_accessible()) {
      return FailedPrecondition("--device {}: {} cannot be one of several devices; name GPUs alone",
                                config.device, name);
    }
    backends.push_back(*std::move(backend));
  }
  return backends;
}

// What sessions may reserve of each device's own memory. The rest of it is for weights, workspaces
// and what allocating leaves between.
std::vector<int64_t> DeviceBytesMax(
    const ServerConfig& config, const std::vector<std::unique_ptr<kernels::Backend>>& backends) {
  std::vector<int64_t> bytes;
  for (const auto& backend : backends) {
    const std::optional<size_t> available = backend->FreeMemory();
    bytes.push_back(!available                     ? std::numeric_limits<int64_t>::max()
                    : config.device_memory_max > 0 ? config.device_memory_max
                                                   : static_cast<int64_t>(*available / 10 * 9));
  }
  return bytes;
}

void SetBounds(const ServerConfig& config, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(config.message_max));
  builder.SetMaxSendMessageSize(-1);
  // A second line behind the guard of memory: gRPC ends any stream, not those that are to blame.
  grpc::ResourceQuota quota("wire");
  quota.Resize(static_cast<size_t>(config.wire_memory_max));
  builder.SetResourceQuota(quota);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kClientPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMetadataBytesMax);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kStreamsPerConnectionMax);
  builder.AddChannelArgument(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, kReadBytesMax);
}

}  // namespace

absl::StatusOr<Server::Security> Server::LoadSecurity(const ServerConfig& config,
                                                      const Clock& clock) {
  Security security;
  if (!config.tls_certificate.empty()) {
    const TlsPaths paths{.certificate = config.tls_certificate,
                         .key = config.tls_key,
                         .client_ca = config.tls_client_ca};
    MNEMO_ASSIGN_OR_RETURN(security.tls, TlsKeeper::Load(paths, clock));
  }
  MNEMO_ASSIGN_OR_RETURN(security.policy,
                         AccessPolicy::Load(config.access, MakeTenantLimits(config), clock));
  MNEMO_ASSIGN_OR_RETURN(security.audit, AuditLog::Open(config.audit_log, clock));
  return security;
}

void Server::ReloadSecurity() {
  security_.audit->Reopen();
  if (poller_ != nullptr) poller_->LookNow();
}

Server::Server(const ServerConfig& config, Security security,
               std::vector<std::unique_ptr<kernels::Backend>> backends, const Clock& clock)
    : config_(config),
      security_(std::move(security)),
      budget_(config.memory_max, DeviceBytesMax(config, backends)),
      quotas_([policy = security_.policy.get()](
                  std::string_view tenant) { return policy->LimitsOf(tenant); },
              clock),
      models_({config.models.begin(), config.models.end()}),
      devices_(std::move(backends), static_cast<size_t>(config.queue_max), budget_, clock),
      store_(MakeSessionLimits(config), budget_, quotas_, models_, devices_, clock),
      clock_(clock),
      streams_(static_cast<size_t>(config.streams_max)),
      connections_(MakeConnectionLimits(config, *security_.policy), clock),
      gatekeeper_(*security_.policy, *security_.audit, connections_),
      reloader_(models_),
      service_(models_, reloader_, store_, devices_, streams_, gatekeeper_,
               MakeStreamLimits(config), clock),
      attention_(devices_[0], budget_, quotas_, streams_, gatekeeper_,
                 static_cast<int32_t>(config.stream_idle_seconds), clock) {
  quotas_.set_everyone({.steps_per_second = config.steps_per_second,
                        .creations_per_minute = config.sessions_per_minute});
}

Server::~Server() {
  if (grpc_ != nullptr) Drain();
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerConfig& config,
                                                      const Clock& clock) {
  MNEMO_ASSIGN_OR_RETURN(Security security, LoadSecurity(config, clock));
  for (const std::string& address : config.listen) {
    MNEMO_RETURN_IF_ERROR(CheckTcpAddress(address));
    if (security.tls == nullptr && !config.allow_plaintext) {
      MNEMO_RETURN_IF_ERROR(CheckPlaintextAddress(address));
    }
  }
  if (!config.socket.empty()) MNEMO_RETURN_IF_ERROR(CheckSocketPath(config.socket));
  MNEMO_ASSIGN_OR_RETURN(auto backends, OpenDevices(config));
  std::unique_ptr<Server> server(
      new Server(config, std::move(security), std::move(backends), clock));
  server->models_.Reload();  // A model that is refused has been logged; the others are served.
  MNEMO_RETURN_IF_ERROR(server->OpenStateFolder());
  MNEMO_RETURN_IF_ERROR(server->Listen());
  return server;
}

absl::Status Server::OpenStateFolder() {
  if (config_.state_dir.empty()) return absl::OkStatus();
  MNEMO_ASSIGN_OR_RETURN(std::unique_ptr<StateFolder> folder, StateFolder::Open(config_.state_dir));
  keeper_ = std::make_unique<SessionKeeper>(
      std::move(folder), MakeKeeperOptions(config_, *security_.policy), budget_, devices_, clock_);
  store_.SetKeeper(keeper_.get());
  store_.Restore();
  return absl::OkStatus();
}

absl::Status Server::Listen() {
  if (ReadProcessMemory(/*in_use=*/false).resident == 0) {
    return FailedPrecondition(
        "/proc/self/statm cannot be read, and without it nothing bounds the memory of connections; "
        "mount /proc where the daemon runs");
  }
  RaiseFileLimit();
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetBounds(config_, builder);
  builder.RegisterService(&service_);
  builder.RegisterService(&attention_);
  const auto clients = config_.tls_clients == "require" ? ClientCertificates::kRequired
                                                        : ClientCertificates::kRequested;
  std::vector<TcpListener::Acceptor> acceptors;
  for (const std::string& address : config_.listen) {
    MNEMO_ASSIGN_OR_RETURN(std::unique_ptr<TcpListener> listener,
                           TcpListener::Listen(address, connections_));
    addresses_.push_back(listener->address());
    listeners_.push_back(std::move(listener));
    credentials_.push_back(security_.tls == nullptr ? grpc::InsecureServerCredentials()
                                                    : MakeTlsCredentials(*security_.tls, clients));
    using Builder = grpc::ServerBuilder::experimental_type;
    acceptors.push_back(builder.experimental().AddExternalConnectionAcceptor(
        Builder::ExternalConnectionType::FROM_FD, credentials_.back()));
  }
  if (!config_.socket.empty()) {
    MNEMO_ASSIGN_OR_RETURN(socket_, SocketListener::Listen(config_.socket, *security_.policy,
                                                           *security_.audit, connections_));
  }
  gatekeeper_.set_socket(socket_.get());
  grpc_ = builder.BuildAndStart();
  if (grpc_ == nullptr) return Internal("gRPC does not start; its log says why");
  base_bytes_ = ReadProcessMemory(/*in_use=*/false).resident + kBaseMargin;
  memory_guard_ = std::make_unique<MemoryGuard>([this] { return MemoryBytesMax(); },
                                                &ReadProcessMemory, connections_, clock_);
  for (size_t i = 0; i < listeners_.size(); ++i) listeners_[i]->Serve(std::move(acceptors[i]));
  if (socket_ != nullptr) socket_->Serve(*grpc_);
  keep_awake_ = std::make_unique<KeepAwake>(*grpc_);
  grpc_->GetHealthCheckService()->SetServingStatus(v1::OptimizerService::service_full_name(), true);
  poller_ = std::make_unique<FilePoller>(kFilePollInterval, [this] {
    if (security_.tls != nullptr) security_.tls->Reload();
    security_.policy->Reload();
  });
  return absl::OkStatus();
}

void Server::RaiseFileLimit() const {
  const int64_t needed = kFilesForConnection * config_.connections_max + kFilesForRest;
  if (const int64_t files = RaiseOpenFileLimit(needed); files < needed) {
    Log(spdlog::level::warn, "too few open files are allowed for --connections-max",
        {{"open_files", files}, {"needed", needed}});
  }
}

int64_t Server::MemoryBytesMax() const {
  const int64_t snapshot = keeper_ == nullptr ? 0 : config_.snapshot_buffer;
  // The rest is for what comes until connections that are ended have let go.
  return base_bytes_ + budget_.bytes_reserved() + snapshot + config_.wire_memory_max / 4;
}

bool Server::Drain() {
  const auto patience = std::chrono::seconds(config_.drain_seconds);
  const auto deadline = std::chrono::system_clock::now() + patience;
  FAIL_POINT("server.drain");
  if (auto* health = grpc_->GetHealthCheckService()) health->Shutdown();
  streams_.Drain();
  keep_awake_.reset();
  for (const auto& listener : listeners_) listener->Stop();
  if (socket_ != nullptr) socket_->Stop();
  // Cancels what is left at the deadline: no client can hold the daemon up. gRPC itself may, so it
  // is waited for on a thread that can be left behind.
  const auto stopped = std::make_shared<GrpcEnd>();
  std::thread shutdown([this, stopped, deadline] {
    grpc_->Shutdown(deadline);
    grpc_->Wait();
    MutexLock lock(&stopped->mutex);
    stopped->reached = true;
  });
  bool clean = false;
  {
    MutexLock lock(&stopped->mutex);
    clean = lock.AwaitFor(patience + kGrpcGrace,
                          [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopped->reached; });
  }
  if (keeper_ != nullptr) {
    const size_t left = keeper_->SnapshotAll(clock_.MonotonicNow() +
                                             std::chrono::seconds(config_.drain_snapshot_seconds));
    if (left > 0) {
      Log(spdlog::level::err, "sessions without a last snapshot", {{"sessions", left}});
    }
  }
  FAIL_POINT("server.drained");
  if (!clean) {
    shutdown.detach();
    Log(spdlog::level::warn, "gRPC hangs, exiting without it");
    return false;
  }
  shutdown.join();
  const bool stopped_all = devices_.Stop();
  if (!stopped_all) Log(spdlog::level::warn, "a device has failed, exiting without it");
  grpc_.reset();
  poller_.reset();
  memory_guard_.reset();
  return stopped_all;
}

}  // namespace mnemosyne::server
