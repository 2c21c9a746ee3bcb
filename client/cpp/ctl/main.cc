// mnemosynectl: the command line of a daemon. Each command has a file of its own.
#include <exception>

#include "client/cpp/ctl/command.h"

namespace mnemosyne::ctl {
namespace {

constexpr char kFooter[] =
    "Exit codes:\n"
    "  0  done\n"
    "  1  the daemon said no, or is not serving\n"
    "  2  the command line is wrong\n"
    "  3  no daemon answers at the address, or not in time\n"
    "\n"
    "Examples:\n"
    "  mnemosynectl health\n"
    "  mnemosynectl --address unix:/run/mnemosyne/mnemosyned.sock sessions list\n"
    "  mnemosynectl attend --q q.npy --k k.npy --v v.npy --rpe shift_invariant \\\n"
    "      --parameters 0.5,-4 --out out.npy\n"
    "  mnemosynectl bench --parameters 1e7 --optimizer adamw --seconds 10\n";

int Main(int argc, char** argv) {
  GlobalOptions options;
  Action action;
  CLI::App app("Looks at a Mnemosyne daemon, its optimizers and its sessions, and measures it.",
               "mnemosynectl");
  app.add_option("--address", options.address,
                 "Where the daemon listens: HOST:PORT, HOST, or unix:/path/of/socket")
      ->capture_default_str();
  CredentialFiles& files = options.credentials;
  app.add_flag("--tls", files.tls, "Encrypt, and trust the system's certificate authorities");
  app.add_option("--tls-ca", files.root_certificates,
                 "PEM file of the authorities that the daemon's certificate comes from");
  app.add_option("--tls-certificate", files.certificate, "PEM file of this client's certificate");
  app.add_option("--tls-key", files.private_key, "PEM file of its key");
  app.add_option("--tls-server-name", files.server_name,
                 "Name in the daemon's certificate, if not that of the address");
  app.add_option("--access-token-file", files.access_token,
                 "File with the access token that says which tenant calls")
      ->envname("MNEMOSYNE_ACCESS_TOKEN_FILE");
  app.add_option("--timeout", options.timeout_seconds,
                 "Seconds that the connection and then each call may take")
      ->check(CLI::Range(0.001, 86'400.0))
      ->capture_default_str();
  app.add_flag("--json", options.json, "Print JSON, errors too");
  app.require_subcommand(1);
  app.fallthrough();  // Global options may stand behind a command.
  AddOptimizersCommand(app, options, action);
  AddModelsCommand(app, options, action);
  AddReloadCommand(app, options, action);
  AddSessionsCommand(app, options, action);
  AddBenchCommand(app, options, action);
  AddAttendCommand(app, options, action);
  AddTokenCommand(app, options, action);
  AddHealthCommand(app, options, action);
  AddVersionCommand(app, options, action);
  app.footer(kFooter);  // After the commands, which would take it over.

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  const absl::Status status = action();
  if (!status.ok()) PrintError(status, options.json);
  return ExitCodeOf(status);
}

}  // namespace
}  // namespace mnemosyne::ctl

int main(int argc, char** argv) {
  try {
    return mnemosyne::ctl::Main(argc, argv);
  } catch (const std::exception& error) {  // Of a library, such as when the memory ends.
    std::fprintf(stderr, "mnemosynectl: %s\n", error.what());
    return mnemosyne::ctl::kExitRefused;
  }
}
