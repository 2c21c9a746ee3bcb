// Every option of the daemon, once: a struct with the defaults in place, and a table with names,
// units, bounds and help from which the flags, the configuration file and the help text are made.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace mnemosyne::server {

struct ServerConfig {
  // Where the daemon listens. An empty list and an empty path are refused.
  std::vector<std::string> listen = {"127.0.0.1:7717"};
  std::string socket;
  std::string ready_file;

  // Who may connect, and how.
  std::string tls_certificate;
  std::string tls_key;
  std::string tls_client_ca;
  std::string tls_clients = "require";
  bool allow_plaintext = false;
  std::string access;
  std::string audit_log;

  // Folders of meta-trained weights, or `auto` or `none`.
  std::vector<std::string> models = {"auto"};

  // What survives the daemon; all of it only with a state folder.
  std::string state_dir;
  int64_t snapshot_seconds = 60;
  int64_t snapshot_steps = 0;
  int64_t snapshots_kept = 2;
  int64_t snapshot_buffer = int64_t{1} << 30;  // Bytes.
  int64_t state_max = 0;                       // Bytes; 0 is no bound.
  int64_t log_max = int64_t{4} << 30;          // Bytes.
  int64_t park_seconds = 0;
  int64_t idle_seconds = 0;
  int64_t expire_seconds = 0;

  // What it computes with.
  std::string device = "auto";
  int64_t threads = 0;  // 0 is one for each core.
  std::string isa = "auto";

  // Bounds.
  int64_t memory_max = 0;         // Bytes; 0 is half of the machine's.
  int64_t device_memory_max = 0;  // Bytes; 0 is nine tenths of what is free at the start.
  int64_t sessions_max = 1024;
  int64_t parameters_max = 100'000;
  int64_t streams_max = 1024;
  int64_t connections_max = 1024;
  int64_t queue_max = 4096;
  int64_t steps_per_second = 0;            // 0 is no bound.
  int64_t sessions_per_minute = 0;         // 0 is no bound.
  int64_t wire_memory_max = 0;             // Bytes; 0 is an eighth of the machine's.
  int64_t message_max = int64_t{4} << 20;  // Bytes.
  int64_t cell_elements = int64_t{1} << 18;

  // Bounds of each tenant; 0 is none but those above.
  int64_t tenant_sessions_max = 0;
  int64_t tenant_memory_max = 0;         // Bytes.
  int64_t tenant_device_memory_max = 0;  // Bytes.
  int64_t tenant_disk_max = 0;           // Bytes.
  int64_t tenant_parameters_max = 0;
  int64_t tenant_streams_max = 0;
  int64_t tenant_inflight_max = 0;  // Bytes.
  int64_t tenant_steps_per_second = 0;
  int64_t tenant_sessions_per_minute = 0;

  // Times, in seconds.
  int64_t heartbeat_seconds = 20;
  int64_t step_timeout_seconds = 120;
  int64_t stream_idle_seconds = 3600;
  int64_t drain_seconds = 10;
  int64_t drain_snapshot_seconds = 60;

  // Logs.
  std::string log_level = "info";
  std::string log_format = "text";
};

// Adds every option of the table to `app`, bound to `config`, and the configuration file.
void AddOptions(CLI::App& app, ServerConfig& config);

// Fills in what depends on the machine, and checks what single bounds cannot. InvalidArgument names
// the option and what it may be.
absl::Status CompleteConfig(ServerConfig& config);

}  // namespace mnemosyne::server
