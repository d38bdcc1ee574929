// A gRPC client of message bytes, on grpc-go: it makes the calls that its standard input lists, all at once, and prints what came.
//
// A line is a call: method, unary or stream, encoding or -, milliseconds or 0, then its messages in hexadecimal. The answer to it
// is the line of the same number: status code, message in hexadecimal, then the messages that came.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
)

type bytesCodec struct{}

func (bytesCodec) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (bytesCodec) Name() string { return "proto" }

func makeCall(connection *grpc.ClientConn, line string) string {
	fields := strings.Fields(line)
	milliseconds, _ := strconv.Atoi(fields[3])
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if milliseconds > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(milliseconds)*time.Millisecond)
		defer cancel()
	}
	options := []grpc.CallOption{grpc.ForceCodec(bytesCodec{}), grpc.MaxCallRecvMsgSize(1 << 28)}
	if fields[2] != "-" {
		options = append(options, grpc.UseCompressor(fields[2]))
	}
	answers, err := exchange(ctx, connection, fields[0], fields[1] == "stream", fields[4:], options)
	state := status.Convert(err)
	words := []string{strconv.Itoa(int(state.Code())), "x" + hex.EncodeToString([]byte(state.Message()))}
	for _, answer := range answers {
		words = append(words, "x"+hex.EncodeToString(answer))
	}
	return strings.Join(words, " ")
}

func exchange(ctx context.Context, connection *grpc.ClientConn, method string, isStream bool, messages []string, options []grpc.CallOption) ([][]byte, error) {
	description := &grpc.StreamDesc{ClientStreams: isStream, ServerStreams: isStream}
	stream, err := connection.NewStream(ctx, description, method, options...)
	if err != nil {
		return nil, err
	}
	go func() {
		for _, message := range messages {
			payload, _ := hex.DecodeString(message[1:])
			if stream.SendMsg(&payload) != nil {
				return
			}
		}
		stream.CloseSend()
	}()
	var answers [][]byte
	for {
		var answer []byte
		err := stream.RecvMsg(&answer)
		if err == io.EOF {
			return answers, nil
		}
		if err != nil {
			return answers, err
		}
		answers = append(answers, answer)
		if !isStream {
			return answers, nil
		}
	}
}

func main() {
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	if err != nil {
		panic(err)
	}
	var lines []string
	input := bufio.NewReader(os.Stdin)
	for {
		line, err := input.ReadString('\n')
		if err != nil {
			break
		}
		lines = append(lines, line)
	}
	results := make([]string, len(lines))
	var calls sync.WaitGroup
	for number := range lines {
		calls.Add(1)
		go func(number int) {
			defer calls.Done()
			results[number] = makeCall(connection, lines[number])
		}(number)
	}
	calls.Wait()
	for _, result := range results {
		fmt.Println(result)
	}
}
