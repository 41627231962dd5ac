import httpx


def test_a_running_service_is_healthy_ready_and_measured(live_server):
    url = live_server()
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert "ctxcomp_requests_total" in httpx.get(f"{url}/metrics").text
