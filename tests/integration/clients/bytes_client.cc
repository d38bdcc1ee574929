// A gRPC client of message bytes, on the C++ core: it makes the calls that its standard input lists, all at once, and prints what
// came.
//
// A line is a call: method, unary or stream, encoding or -, milliseconds or 0, then its messages in hexadecimal. The answer to it
// is the line of the same number: status code, message in hexadecimal, then the messages that came.

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

std::string Hex(const std::string& bytes) {
  static const char* digits = "0123456789abcdef";
  std::string text = "x";
  for (unsigned char byte : bytes) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

grpc::ByteBuffer Buffer(const std::string& hex) {
  std::string bytes;
  for (size_t at = 1; at + 1 < hex.size(); at += 2) bytes += static_cast<char>(std::stoi(hex.substr(at, 2), nullptr, 16));
  grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

std::string Bytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  buffer.Dump(&slices);
  std::string bytes;
  for (const auto& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return bytes;
}

// Whether one operation on the queue succeeded.
bool Done(grpc::CompletionQueue* queue) {
  void* tag;
  bool ok = false;
  return queue->Next(&tag, &ok) && ok;
}

std::string MakeCall(grpc::GenericStub* stub, const std::string& line) {
  std::istringstream fields(line);
  std::string method, kind, encoding, hex;
  int milliseconds;
  fields >> method >> kind >> encoding >> milliseconds;
  grpc::ClientContext context;
  if (encoding == "gzip") context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  if (encoding == "deflate") context.set_compression_algorithm(GRPC_COMPRESS_DEFLATE);
  if (milliseconds > 0) context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(milliseconds));
  grpc::CompletionQueue queue;
  auto call = stub->PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  bool open = Done(&queue);
  while (open && fields >> hex) {
    call->Write(Buffer(hex), nullptr);
    open = Done(&queue);
  }
  if (open) {
    call->WritesDone(nullptr);
    Done(&queue);
  }
  std::string answers;
  grpc::ByteBuffer answer;
  for (;;) {
    call->Read(&answer, nullptr);
    if (!Done(&queue)) break;
    answers += " " + Hex(Bytes(answer));
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  Done(&queue);
  return std::to_string(status.error_code()) + " " + Hex(status.error_message()) + answers;
}

}  // namespace

int main(int, char** arguments) {
  grpc::ChannelArguments options;
  options.SetMaxReceiveMessageSize(1 << 28);
  grpc::GenericStub stub(grpc::CreateCustomChannel(arguments[1], grpc::InsecureChannelCredentials(), options));
  std::vector<std::string> lines;
  for (std::string line; std::getline(std::cin, line);) lines.push_back(line);
  std::vector<std::string> results(lines.size());
  std::vector<std::thread> calls;
  for (size_t number = 0; number < lines.size(); ++number) {
    calls.emplace_back([&, number] { results[number] = MakeCall(&stub, lines[number]); });
  }
  for (auto& call : calls) call.join();
  for (const auto& result : results) std::cout << result << "\n";
  return 0;
}
