// Many of etcd's own Go clients, and an upstream that is away for half a minute.
//
// Each client has a connection of its own, writes keys that it never writes again, reads them, and keeps a watch open.
// It tries again when it is refused, a second later. The program stops and starts etcd by itself, and prints a line for
// each target: attempts that left a client (the retries inside clientv3 too), keys that were written more than once, and
// how long after etcd was back everybody was served.
//
//	blackout --etcd PATH --forebay PATH --clients 1000 --away 30s
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

var (
	etcd    = flag.String("etcd", "", "etcd's binary")
	forebay = flag.String("forebay", "", "Forebay's binary; without it only etcd is asked directly")
	clients = flag.Int("clients", 1000, "how many clients")
	around  = flag.Duration("around", 10*time.Second, "how long before and after")
	away    = flag.Duration("away", 30*time.Second, "how long the upstream is away")
)

// How long a client waits for an answer, and before it tries again.
const (
	patience = 5 * time.Second
	pause    = time.Second
)

func main() {
	flag.Parse()
	failed := false
	for _, through := range []bool{false, true} {
		if through && *forebay == "" {
			continue
		}
		if err := run(through); err != nil {
			log.Print(err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

// attempts counts the calls that leave a client, each retry for itself.
type attempts struct{ unary, streams atomic.Int64 }

func (a *attempts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (a *attempts) HandleRPC(_ context.Context, s stats.RPCStats) {
	if begin, ok := s.(*stats.Begin); ok {
		if begin.IsClientStream {
			a.streams.Add(1)
		} else {
			a.unary.Add(1)
		}
	}
}

func (a *attempts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (a *attempts) HandleConn(context.Context, stats.ConnStats)                       {}

// client is one of many.
type client struct {
	number   int
	etcd     *clientv3.Client
	attempts attempts
	// Keys of which a write was attempted, and how many were acknowledged.
	written, acknowledged int
	// When its last request was answered, and the first after the upstream was back; in nanoseconds since 1970.
	back atomic.Int64
	// Events that its watch told of.
	events atomic.Int64
}

func (c *client) key(n int) string { return fmt.Sprintf("/blackout/%04d/%06d", c.number, n) }

// run writes and reads until it is told to stop. backAt is when the upstream was back, 0 before that.
func (c *client) run(ctx context.Context, backAt *atomic.Int64) {
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for answer := range c.etcd.Watch(ctx, c.key(0)[:len("/blackout/0000/")], clientv3.WithPrefix()) {
			c.events.Add(int64(len(answer.Events)))
		}
	}()
	for ctx.Err() == nil {
		// Not until a request is over does the next begin.
		within, cancel := context.WithTimeout(ctx, patience)
		c.written++
		_, err := c.etcd.Put(within, c.key(c.written), "v")
		if err == nil {
			c.acknowledged++
			_, err = c.etcd.Get(within, c.key(c.written))
		}
		cancel()
		if began := backAt.Load(); err == nil && began > 0 {
			c.back.CompareAndSwap(0, max(time.Now().UnixNano()-began, 1))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	<-watching
}

func run(through bool) error {
	dir, err := os.MkdirTemp("", "blackout")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store := &server{program: *etcd, client: free(), log: dir + "/etcd.log"}
	peer := free()
	store.args = []string{
		"--data-dir=" + dir + "/data", "--listen-client-urls=http://" + store.client,
		"--advertise-client-urls=http://" + store.client, "--listen-peer-urls=http://" + peer,
		"--initial-advertise-peer-urls=http://" + peer, "--initial-cluster=default=http://" + peer, "--log-level=error",
	}
	if err := store.start(); err != nil {
		return err
	}
	defer func() { store.stop() }()
	name, front := "etcd", store
	if through {
		name, front = "gateway", &server{program: *forebay, client: free(), log: dir + "/gateway.log"}
		front.args = []string{
			"gateway", "--endpoints=" + store.client, "--listen-client-urls=http://" + front.client, "--log-level=error",
		}
		if err := front.start(); err != nil {
			return err
		}
		defer front.stop()
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var backAt atomic.Int64
	var running sync.WaitGroup
	all := make([]*client, *clients)
	for n := range all {
		c := &client{number: n}
		c.etcd, err = clientv3.New(clientv3.Config{
			Endpoints: []string{"http://" + front.client}, DialTimeout: patience, Logger: zap.NewNop(),
			DialOptions: []grpc.DialOption{grpc.WithStatsHandler(&c.attempts)},
		})
		if err != nil {
			return err
		}
		defer c.etcd.Close()
		all[n] = c
		running.Add(1)
		// Not all in the same moment of each second.
		go func() {
			defer running.Done()
			time.Sleep(time.Duration(n) * pause / time.Duration(len(all)))
			c.run(ctx, &backAt)
		}()
	}
	time.Sleep(*around)
	before := count(all)
	store.stop()
	time.Sleep(*away)
	during := count(all)
	if err := store.start(); err != nil {
		return err
	}
	backAt.Store(time.Now().UnixNano())
	time.Sleep(*around)
	cancel()
	running.Wait()

	twice, written, acknowledged, lost, err := look(store, all)
	if err != nil {
		return err
	}
	rate := func(attempts int64, seconds float64) float64 { return float64(attempts) / seconds / float64(len(all)) }
	most := int64(0)
	for n := range all {
		most = max(most, during.each[n]-before.each[n])
	}
	var back []time.Duration
	never := 0
	for _, c := range all {
		if since := c.back.Load(); since > 0 {
			back = append(back, time.Duration(since))
		} else {
			never++
		}
	}
	slices.Sort(back)
	at := func(share float64) time.Duration {
		if len(back) == 0 {
			return -1
		}
		return back[min(int(share*float64(len(back))), len(back)-1)].Round(time.Millisecond)
	}
	fmt.Printf("%-8s %d clients, %v away: %.2f attempts/s each meanwhile (%.2f the busiest; before %.2f), "+
		"%d keys written, %d acknowledged, %d lost, %d written twice; "+
		"served again after %v (half), %v (99 of 100), %v (the last), %d never\n",
		name, len(all), *away, rate(during.all-before.all, away.Seconds()), float64(most)/away.Seconds(),
		rate(before.all, around.Seconds()), written, acknowledged, lost, twice, at(0.5), at(0.99), at(1), never)
	if through && (twice > 0 || lost > 0 || never > 0) {
		return fmt.Errorf("%s: writes were lost or doubled, or clients were never served again", name)
	}
	return nil
}

type counted struct {
	all  int64
	each []int64
}

func count(all []*client) counted {
	sum := counted{each: make([]int64, len(all))}
	for n, c := range all {
		sum.each[n] = c.attempts.unary.Load() + c.attempts.streams.Load()
		sum.all += sum.each[n]
	}
	return sum
}

// look reads what became of all keys: how many were written twice, and how many acknowledged ones are not there.
func look(store *server, all []*client) (twice, written, acknowledged, lost int, err error) {
	direct, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"http://" + store.client}, DialTimeout: patience, Logger: zap.NewNop(),
	})
	if err != nil {
		return
	}
	defer direct.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	found, err := direct.Get(ctx, "/blackout/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return
	}
	there := map[string]int{}
	for _, kv := range found.Kvs {
		owner := strings.SplitN(string(kv.Key), "/", 4)[2]
		there[owner]++
		if kv.Version > 1 {
			twice++
		}
	}
	written = len(found.Kvs)
	for _, c := range all {
		acknowledged += c.acknowledged
		// What was not acknowledged may be there or not.
		lost += max(0, c.acknowledged-there[fmt.Sprintf("%04d", c.number)])
	}
	return
}

// server is a process that is stopped and started.
type server struct {
	program, client, log string
	args                 []string
	process              *exec.Cmd
}

func (s *server) start() error {
	out, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	s.process = exec.Command(s.program, s.args...)
	s.process.Stdout, s.process.Stderr = out, out
	if err := s.process.Start(); err != nil {
		return err
	}
	for range 1000 {
		answer, err := http.Get("http://" + s.client + "/health")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s does not serve", s.program)
}

func (s *server) stop() {
	if s.process != nil {
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
		s.process = nil
	}
}

// free is an address of this machine that nothing listens at.
func free() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
