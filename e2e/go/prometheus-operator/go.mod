module headwater.local/e2e/prometheus-operator

go 1.26.0
