#include "client/cpp/ctl/json.h"

#include <cmath>
#include <cstdio>
#include <string>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/timestamp.pb.h"
#include "google/protobuf/util/time_util.h"

namespace mnemosyne::ctl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using nlohmann::ordered_json;

ordered_json NumberToJson(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

// Reads a field that is not repeated, or element `index` of one that is.
ordered_json ValueToJson(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& reflection = *message.GetReflection();
  const bool single = !field.is_repeated();
  const auto read = [&](auto get, auto get_repeated) {
    return single ? (reflection.*get)(message, &field)
                  : (reflection.*get_repeated)(message, &field, index);
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return read(&Reflection::GetInt32, &Reflection::GetRepeatedInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return read(&Reflection::GetInt64, &Reflection::GetRepeatedInt64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return read(&Reflection::GetUInt32, &Reflection::GetRepeatedUInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return read(&Reflection::GetUInt64, &Reflection::GetRepeatedUInt64);
    case FieldDescriptor::CPPTYPE_BOOL:
      return read(&Reflection::GetBool, &Reflection::GetRepeatedBool);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return NumberToJson(read(&Reflection::GetDouble, &Reflection::GetRepeatedDouble));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return NumberToJson(
          static_cast<double>(read(&Reflection::GetFloat, &Reflection::GetRepeatedFloat)));
    case FieldDescriptor::CPPTYPE_STRING:
      return read(&Reflection::GetString, &Reflection::GetRepeatedString);
    case FieldDescriptor::CPPTYPE_ENUM:
      return std::string(read(&Reflection::GetEnum, &Reflection::GetRepeatedEnum)->name());
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(single ? reflection.GetMessage(message, &field)
                           : reflection.GetRepeatedMessage(message, &field, index));
  }
  return nullptr;
}

ordered_json MapToJson(const Message& message, const FieldDescriptor& field) {
  const FieldDescriptor& value_field = *field.message_type()->map_value();
  const FieldDescriptor& key_field = *field.message_type()->map_key();
  std::map<std::string, ordered_json> sorted;
  for (int i = 0; i < message.GetReflection()->FieldSize(message, &field); ++i) {
    const Message& entry = message.GetReflection()->GetRepeatedMessage(message, &field, i);
    const ordered_json key = ValueToJson(entry, key_field, 0);
    sorted[key.is_string() ? key.get<std::string>() : key.dump()] =
        ValueToJson(entry, value_field, 0);
  }
  return sorted;
}

ordered_json FieldToJson(const Message& message, const FieldDescriptor& field) {
  if (field.is_map()) {
    ordered_json map = MapToJson(message, field);
    return map.empty() ? ordered_json::object() : map;
  }
  if (!field.is_repeated()) return ValueToJson(message, field, 0);
  ordered_json list = ordered_json::array();
  for (int i = 0; i < message.GetReflection()->FieldSize(message, &field); ++i) {
    list.push_back(ValueToJson(message, field, i));
  }
  return list;
}

}  // namespace

ordered_json ToJson(const Message& message) {
  if (message.GetDescriptor() == google::protobuf::Timestamp::descriptor()) {
    google::protobuf::Timestamp time;
    time.CopyFrom(message);
    return google::protobuf::util::TimeUtil::ToString(time);
  }
  ordered_json json = ordered_json::object();
  const auto& descriptor = *message.GetDescriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (field.has_presence() && !message.GetReflection()->HasField(message, &field)) continue;
    json[field.name()] = FieldToJson(message, field);
  }
  return json;
}

void PrintJson(const ordered_json& json) { std::fputs((json.dump(2) + "\n").c_str(), stdout); }

}  // namespace mnemosyne::ctl
