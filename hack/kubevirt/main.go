// Command kubevirt is virt-controller and virtctl in one program, each the real one with its own flags; and `manifests`, which prints
// what virt-operator would install, one JSON object a line. virt-api is a program of its own: it takes 3 s to come up to its main.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	v1 "kubevirt.io/api/core/v1"
	"kubevirt.io/client-go/version"
	"kubevirt.io/kubevirt/pkg/virt-controller/watch"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/install"
	"kubevirt.io/kubevirt/pkg/virt-operator/util"
	"kubevirt.io/kubevirt/pkg/virtctl"
)

const namespace = "kubevirt"

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	program := os.Args[1]
	os.Args = os.Args[1:] // each program sees its own name and flags
	switch program {
	case "virt-controller":
		watch.Execute()
	case "virtctl":
		os.Exit(virtctl.Execute())
	case "manifests":
		if err := manifests(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		usage()
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: kubevirt virt-controller|virtctl|manifests [flags]")
	os.Exit(2)
}

// manifests prints what is left when virt-operator's Deployments, and what only OpenShift and Prometheus know, are left out.
func manifests() error {
	kubevirt := &v1.KubeVirt{}
	kubevirt.Namespace = namespace
	kubevirt.Spec.ImageRegistry = "quay.io/kubevirt"
	kubevirt.Spec.ImageTag = version.Get().GitVersion
	strategy, err := install.GenerateCurrentInstallStrategy(util.GetTargetConfigFromKV(kubevirt), "", namespace)
	if err != nil {
		return err
	}
	crd, err := components.NewKubeVirtCrd()
	if err != nil {
		return err
	}
	for _, objects := range []any{
		[]any{crd, components.NewKubeVirtPriorityClassCR()}, // virt-operator's own manifest has these two
		strategy.CRDs(), strategy.ServiceAccounts(), strategy.ClusterRoles(), strategy.ClusterRoleBindings(), strategy.Roles(),
		strategy.RoleBindings(), strategy.ConfigMaps(), strategy.Services(), strategy.APIServices(),
		strategy.ValidatingWebhookConfigurations(), strategy.MutatingWebhookConfigurations(),
		strategy.ValidatingAdmissionPolicies(), strategy.ValidatingAdmissionPolicyBindings(),
	} {
		for list, i := reflect.ValueOf(objects), 0; i < list.Len(); i++ {
			if err := printObject(list.Index(i).Interface()); err != nil {
				return err
			}
		}
	}
	return nil
}

func printObject(object any) error {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return err
	}
	unstructured.RemoveNestedField(fields, "status")
	unstructured.RemoveNestedField(fields, "metadata", "creationTimestamp")
	return json.NewEncoder(os.Stdout).Encode(fields)
}
