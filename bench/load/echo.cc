// A gRPC echo over the C++ core and nothing else: the floor of the transport, started by bench/load/baselines.py.
//
// Every method answers with the message it was sent. Prints the port it chose, and serves until its standard input closes.

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <memory>
#include <thread>

namespace {

class Call {
 public:
  Call(grpc::AsyncGenericService* service, grpc::ServerCompletionQueue* queue)
      : service_(service), queue_(queue), stream_(&context_) {
    service_->RequestCall(&context_, &stream_, queue_, queue_, this);
  }

  // One completed step; the object ends itself after its last.
  void Step(bool ok) {
    if (!ok || state_ == kFinish) {
      delete this;
      return;
    }
    switch (state_) {
      case kAccept:
        new Call(service_, queue_);
        state_ = kRead;
        stream_.Read(&message_, this);
        break;
      case kRead:
        state_ = kFinish;
        stream_.WriteAndFinish(message_, grpc::WriteOptions(), grpc::Status::OK, this);
        break;
      case kFinish:
        break;
    }
  }

 private:
  enum { kAccept, kRead, kFinish } state_ = kAccept;
  grpc::AsyncGenericService* service_;
  grpc::ServerCompletionQueue* queue_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_;
  grpc::ByteBuffer message_;
};

}  // namespace

int main() {
  grpc::AsyncGenericService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterAsyncGenericService(&service);
  builder.SetMaxReceiveMessageSize(-1);
  std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server) return 1;
  for (int i = 0; i < 256; ++i) new Call(&service, queue.get());
  std::thread worker([&queue] {
    void* tag;
    bool ok;
    while (queue->Next(&tag, &ok)) static_cast<Call*>(tag)->Step(ok);
  });
  std::printf("%d\n", port);
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  server->Shutdown(std::chrono::system_clock::now());
  queue->Shutdown();
  worker.join();
  return 0;
}
