// Command kube is a Kubernetes control plane in one program: kube-apiserver with etcd embedded, kube-controller-manager,
// kube-scheduler and kubectl, each the real one. The lab runs it on loopback, without a container engine.
package main

import (
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// etcd starts an etcd of one member in this process, without fsync: a lab's data is worth nothing after its end.
func etcd(directory, client, peer string) error {
	config := embed.NewConfig()
	config.Dir = directory
	config.UnsafeNoFsync = true
	config.LogLevel = "error"
	clientURL, peerURL := url.URL{Scheme: "http", Host: client}, url.URL{Scheme: "http", Host: peer}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{clientURL}, []url.URL{clientURL}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peerURL}, []url.URL{peerURL}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	select {
	case <-server.Server.ReadyNotify():
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("etcd in %s was not ready within 30 s", directory)
	}
}

// up is kube-apiserver's own command, with an etcd started before it.
func up() *cobra.Command {
	command := apiserver.NewAPIServerCommand()
	directory := command.Flags().String("etcd-directory", "", "data directory of the embedded etcd")
	client := command.Flags().String("etcd-client", "127.0.0.1:2379", "address on which the embedded etcd serves clients")
	peer := command.Flags().String("etcd-peer", "127.0.0.1:2380", "address on which the embedded etcd serves peers")
	run := command.RunE
	command.RunE = func(cmd *cobra.Command, args []string) error {
		if err := etcd(*directory, *client, *peer); err != nil {
			return err
		}
		return run(cmd, args)
	}
	return command
}

func main() {
	commands := map[string]func() *cobra.Command{
		"up":                 up,
		"controller-manager": controllermanager.NewControllerManagerCommand,
		"scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kubectl":            kubectl.NewDefaultKubectlCommand,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: kube up|controller-manager|scheduler|kubectl [flags]")
		os.Exit(2)
	}
	command := commands[os.Args[1]]()
	os.Args = append([]string{os.Args[0]}, os.Args[2:]...)
	os.Exit(cli.Run(command))
}
