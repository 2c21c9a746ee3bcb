// Messages of protobuf as JSON.
#pragma once

#include <nlohmann/json.hpp>

#include "google/protobuf/message.h"

namespace mnemosyne::ctl {

// All fields of a message under their names in the .proto file, those at their defaults too; only
// unset messages and optional fields are left out. Numbers are numbers, infinities and NaN are
// strings, times are as in RFC 3339.
nlohmann::ordered_json ToJson(const google::protobuf::Message& message);

// Writes JSON, indented, to the standard output.
void PrintJson(const nlohmann::ordered_json& json);

}  // namespace mnemosyne::ctl
